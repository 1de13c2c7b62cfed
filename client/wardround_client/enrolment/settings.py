"""A site's settings, site.toml: its name, and where the server is."""

import re
import tomllib

from pydantic import ValidationError

from wardround_shared.consortium.documents import first_fault
from wardround_shared.consortium.fields import Address, SiteName
from wardround_shared.errors import EnrolmentError
from wardround_shared.study.section import Section

_TEMPLATE = """\
# Settings of this site. What it allows is in policy.toml.

# Its name in the roster; it stands in the keys' request and in the ledger, and cannot be changed.
name = "{name}"

# Where the server is, host:port; filled in when the site joins. If the server moves, the
# coordinating centre says so, and it is changed here and in the hospital's firewall.
# server = "host:port"
"""
_SERVER = re.compile(r"^(?:#[ \t]*)?server[ \t]*=.*$", re.MULTILINE)


class SiteSettings(Section):
    """A whole site.toml.

    Attributes:
        name: of this site.
        server: `host:port`; None before it has joined.
    """

    name: SiteName
    server: Address | None = None


def parse_settings(text: str, *, origin: str) -> SiteSettings:
    """Check the text of a site.toml; `origin` names it in errors.

    Raises:
        EnrolmentError: naming file, key and value.
    """
    try:
        return SiteSettings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise EnrolmentError(f"{origin}: this is not a TOML file ({error}).") from error
    except ValidationError as error:
        raise EnrolmentError(f"{origin}: {first_fault(error)}.") from error


def settings_text(name: str) -> str:
    """A new site.toml.

    Raises:
        EnrolmentError: no name for a site.
    """
    text = _TEMPLATE.format(name=name.replace("\\", "\\\\").replace('"', '\\"'))
    parse_settings(text, origin="site.toml")
    return text


def with_server(text: str, address: str, *, origin: str) -> str:
    """The text with the server's address, everything else as it was.

    Raises:
        EnrolmentError: the text has no line for it.
    """
    line = f'server = "{address}"'
    changed, count = _SERVER.subn(lambda _: line, text, count=1)
    if not count or parse_settings(changed, origin=origin).server != address:
        raise EnrolmentError(f"{origin}: there is no line `server = ...` to be filled in; add one.")
    return changed
