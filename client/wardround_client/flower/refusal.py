"""Why a server or its door refused a SuperNode, as the exit code of its process.

Nothing of Flower is imported here: the daemon that reads the exit code needs none of it.
"""

import ssl
from enum import IntEnum

_EXPIRED, _NOT_YET, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_...
_UNAUTHORISED, _ACTIVATION_FAILED = 401, 412
_TRY_AGAIN = {408, 425, 429}


class Refusal(IntEnum):
    """A cause, with the exit code that says it."""

    ISSUER = 40
    DATES = 41
    HOST = 42
    NO_TLS = 43
    PROXY = 44
    NOT_ADMITTED = 45
    SIGNATURE = 46
    NO_SERVER = 47

    @property
    def sentence(self) -> str:
        """The cause and what to do; no path, no name."""
        return f"{_CAUSES[self]}; {_REMEDIES.get(self, _DOCTOR)}."

    @classmethod
    def of_exit(cls, code: int) -> "Refusal | None":
        """The cause that an exit code says; None: the process ended for another reason."""
        return cls(code) if code in _CODES else None

    @classmethod
    def of_distrust(cls, error: ssl.SSLError) -> "Refusal":
        """Why TLS to the server failed."""
        if not isinstance(error, ssl.SSLCertVerificationError):
            return cls.NO_TLS
        if error.verify_code in {_EXPIRED, _NOT_YET}:
            return cls.DATES
        return cls.HOST if error.verify_code in {_OTHER_HOST, _OTHER_ADDRESS} else cls.ISSUER

    @classmethod
    def of_status(cls, status: int) -> "Refusal | None":
        """What an HTTP status says in answer to a node that wants to connect; None: try again."""
        if status == _ACTIVATION_FAILED:
            return cls.NOT_ADMITTED
        if status == _UNAUTHORISED:
            return cls.SIGNATURE
        return cls.NO_SERVER if 400 <= status < 500 and status not in _TRY_AGAIN else None


_CODES = frozenset(Refusal)
_DOCTOR = "wardround-site doctor says more"
_CAUSES = {
    Refusal.ISSUER: "The certificate that the server shows was not signed by the consortium: a "
    "firewall opens TLS, or another server answers at this address",
    Refusal.DATES: "The server's certificate or its authority has expired or is not valid yet, or "
    "the clock of this machine is wrong",
    Refusal.HOST: "The certificate of the consortium that the server shows is for another host "
    "name than site.toml has",
    Refusal.NO_TLS: "Whoever answers at the server's address does not speak TLS as it does: see to "
    "host and port in site.toml, and to firewalls",
    Refusal.PROXY: "The proxy lets no connection to the server through",
    Refusal.NOT_ADMITTED: "The server does not let this site's node key in: it is not in the "
    "roster, the site was revoked, or another copy of it is connected",
    Refusal.SIGNATURE: "The server does not take this site's signed time: the clock of this "
    "machine is wrong, or the key is another",
    Refusal.NO_SERVER: "Whoever answers at the server's address is no server of a consortium: see "
    "to host and port in site.toml",
}
_REMEDIES = {
    Refusal.NOT_ADMITTED: "ask the coordinating centre, and see wardround-site doctor",
}
