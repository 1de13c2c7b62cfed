"""The Kubernetes manifests: every field is one that Kubernetes has, and says what it must.

`FORMS` holds the fields of the API (v1.29) that are used here. A misspelt one would be dropped by
some tools in silence; here it fails. Where kubectl is there, its own types are asked too.
"""

import copy
import importlib.util
import json
import re
import shutil
import subprocess

import pytest
import yaml

from wardround_server.enrolment.settings import HealthSettings, ListenSettings, parse_settings

ROLES = ("server", "site")
KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not here")


def quantity(value):
    return isinstance(value, str) and re.fullmatch(r"\d+(m|Mi|Gi)?", value) is not None


def label(value):
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9A-Z]([\w.-]{0,61}[\w])?", value)


LABELS = {"*": label}
METADATA = {"name": str, "namespace": str, "labels": LABELS}
SELECTOR = {"matchLabels": LABELS}
RESOURCES = {
    "requests": {"cpu": quantity, "memory": quantity},
    "limits": {"memory": quantity, "nvidia.com/gpu": quantity},
}
PROBE = {
    "grpc": {"port": int},
    "exec": {"command": [str]},
    "periodSeconds": int,
    "timeoutSeconds": int,
    "failureThreshold": int,
}
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [
        {
            "name": str,
            "value": str,
            "valueFrom": {"secretKeyRef": {"name": str, "key": str, "optional": bool}},
        }
    ],
    "ports": [{"name": str, "protocol": str, "containerPort": int}],
    "startupProbe": PROBE,
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "resources": RESOURCES,
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"drop": [str]},
    },
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
}
POD = {
    "restartPolicy": str,
    "automountServiceAccountToken": bool,
    "enableServiceLinks": bool,
    "terminationGracePeriodSeconds": int,
    "securityContext": {
        "runAsNonRoot": bool,
        "runAsUser": int,
        "runAsGroup": int,
        "fsGroup": int,
        "fsGroupChangePolicy": str,
        "seccompProfile": {"type": str},
    },
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": str,
            "persistentVolumeClaim": {"claimName": str, "readOnly": bool},
            "emptyDir": {"sizeLimit": quantity},
        }
    ],
}
NETWORK_PORTS = [{"protocol": str, "port": int}]
FORMS = {
    ("v1", "Namespace"): None,
    ("v1", "PersistentVolumeClaim"): {
        "accessModes": [str],
        "resources": {"requests": {"storage": quantity}},
    },
    ("v1", "Service"): {
        "type": str,
        "selector": LABELS,
        "ports": [{"name": str, "protocol": str, "port": int, "targetPort": str}],
    },
    ("v1", "Pod"): POD,
    ("apps/v1", "StatefulSet"): {
        "replicas": int,
        "serviceName": str,
        "selector": SELECTOR,
        "template": {"metadata": {"labels": LABELS}, "spec": POD},
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "podSelector": SELECTOR,
        "policyTypes": [str],
        "ingress": [{"ports": NETWORK_PORTS}],
        "egress": [
            {
                "to": [
                    {
                        "ipBlock": {"cidr": str},
                        "namespaceSelector": SELECTOR,
                        "podSelector": SELECTOR,
                    }
                ],
                "ports": NETWORK_PORTS,
            }
        ],
    },
}


def fits(value, form, where):
    """Assert that a value has only fields of the form, each of its kind."""
    if isinstance(form, dict):
        assert isinstance(value, dict), where
        for key, one in value.items():
            assert key in form or "*" in form, f"{where}: there is no field {key}"
            fits(one, form.get(key, form.get("*")), f"{where}.{key}")
    elif isinstance(form, list):
        assert isinstance(value, list), where
        for number, one in enumerate(value):
            fits(one, form[0], f"{where}[{number}]")
    elif isinstance(form, type):
        assert type(value) is form, f"{where}: {value!r} is no {form.__name__}"
    else:
        assert form(value), f"{where}: {value!r}"


def check(manifest):
    form = FORMS[manifest["apiVersion"], manifest["kind"]]
    outer = {"apiVersion": str, "kind": str, "metadata": METADATA}
    fits(manifest, outer | ({"spec": form} if form else {}), manifest["kind"])


@pytest.fixture(params=ROLES)
def role(request):
    return request.param


@pytest.fixture
def manifests(role, deploy, documents):
    """(kind, name) -> manifest, of all files of a role."""
    folder = deploy / role / "kubernetes"
    files = [one for one in folder.glob("*.yaml") if one.name != "kustomization.yaml"]
    found = [manifest for file in files for manifest in documents(file)]
    named = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(named) == len(found)
    return named


def pods(manifests):
    """The pods that come of manifests: name -> its spec."""
    found = {}
    for (kind, name), manifest in manifests.items():
        if kind == "Pod":
            found[name] = manifest["spec"]
        elif kind == "StatefulSet":
            found[name] = manifest["spec"]["template"]["spec"]
    return found


def container_of(pod):
    (container,) = pod["containers"]
    return container


def daemon_of(role, manifests):
    return container_of(manifests["StatefulSet", f"wardround-{role}"]["spec"]["template"]["spec"])


def test_every_field_is_one_that_kubernetes_has(manifests):
    for manifest in manifests.values():
        check(manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replica"), 1),
        (("spec", "replicas"), "1"),
        (("spec", "template", "spec", "securityContext", "runAsNonroot"), True),
        (("spec", "template", "spec", "containers", 0, "livenessProbe", "grpc", "port"), "9093"),
        (("spec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "4GB"),
    ],
)
def test_a_slip_would_be_noticed(deploy, documents, path, value):
    _, manifest = documents(deploy / "server" / "kubernetes" / "server.yaml")
    check(manifest)
    broken = copy.deepcopy(manifest)
    inner = broken
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(AssertionError):
        check(broken)


def test_everything_lies_in_one_namespace_of_the_restricted_standard(role, manifests):
    (namespace,) = [one for (kind, _), one in manifests.items() if kind == "Namespace"]
    assert namespace["metadata"]["name"] == f"wardround-{role}"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for (kind, _), manifest in manifests.items():
        if kind != "Namespace":
            assert manifest["metadata"]["namespace"] == f"wardround-{role}"


def test_every_pod_is_locked_down(manifests):
    for pod in pods(manifests).values():
        context, inner = pod["securityContext"], container_of(pod)["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]) == (
            True,
            {"type": "RuntimeDefault"},
        )
        assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
        assert context["fsGroupChangePolicy"] == "OnRootMismatch"
        assert pod["automountServiceAccountToken"] is False
        assert inner == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container_of(pod)["resources"].keys() == {"requests", "limits"}


def test_the_home_is_a_folder_within_its_volume(role, manifests):
    """Kubernetes opens the volume's own folder to a group, which keys must not be open to."""
    for pod in pods(manifests).values():
        container = container_of(pod)
        volume = f"/var/lib/wardround-{role}"
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert mounts["home"]["mountPath"] == volume
        assert environment[f"WARDROUND_{role.upper()}_HOME"] == f"{volume}/home"
        assert mounts["exchange"]["mountPath"] == "/srv/exchange"
        assert mounts["tmp"]["mountPath"] == "/tmp"


def test_every_mount_has_its_volume_and_every_volume_its_claim(manifests):
    for pod in pods(manifests).values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes.keys() == {one["name"] for one in container_of(pod)["volumeMounts"]}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or ("PersistentVolumeClaim", claim["claimName"]) in manifests


def test_there_is_one_pod_with_a_home_at_a_time(role, manifests):
    assert manifests["StatefulSet", f"wardround-{role}"]["spec"]["replicas"] == 1
    home = manifests["PersistentVolumeClaim", f"wardround-{role}-home"]["spec"]
    assert home["accessModes"] == ["ReadWriteOncePod"]


def test_a_site_only_reads_its_data(deploy, documents):
    for name in ("site.yaml", "maintenance.yaml"):
        (manifest,) = documents(deploy / "site" / "kubernetes" / name)
        pod = manifest["spec"].get("template", {}).get("spec", manifest["spec"])
        (mount,) = [one for one in container_of(pod)["volumeMounts"] if one["name"] == "data"]
        (volume,) = [one for one in pod["volumes"] if one["name"] == "data"]
        assert mount == {"name": "data", "mountPath": "/srv/data", "readOnly": True}
        assert volume["persistentVolumeClaim"]["readOnly"] is True


def test_selectors_find_the_daemon_and_not_the_pod_for_maintenance(role, manifests):
    wanted = {"app.kubernetes.io/name": f"wardround-{role}"}
    stateful = manifests["StatefulSet", f"wardround-{role}"]["spec"]
    assert (
        stateful["selector"]["matchLabels"] == stateful["template"]["metadata"]["labels"] == wanted
    )
    assert manifests["Pod", f"wardround-{role}-maintenance"]["metadata"]["labels"] != wanted
    services = [one for (kind, _), one in manifests.items() if kind == "Service"]
    assert [one["spec"]["selector"] for one in services] == ([wanted] if role == "server" else [])


def test_the_server_is_reached_at_its_public_port_and_nowhere_else(deploy, documents):
    folder = deploy / "server" / "kubernetes"
    service, stateful = documents(folder / "server.yaml")
    (policy,) = documents(folder / "network-policy.yaml")
    public = ListenSettings().port
    container = container_of(stateful["spec"]["template"]["spec"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"fleet": public, "health": HealthSettings().port}
    assert [(one["port"], one["targetPort"]) for one in service["spec"]["ports"]] == [
        (public, "fleet")
    ]
    assert policy["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": public}]}],
        "egress": [],
    }


def test_a_site_is_reached_by_nobody_and_reaches_the_server_and_the_names(deploy, documents):
    (policy,) = documents(deploy / "site" / "kubernetes" / "network-policy.yaml")
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == []
    server, names = policy["spec"]["egress"]
    (to,) = server["to"]
    assert to["ipBlock"]["cidr"].endswith("/32")
    assert [port["port"] for port in server["ports"]] == [ListenSettings().port]
    assert {port["port"] for port in names["ports"]} == {53}
    (to,) = names["to"]
    assert to.keys() == {"namespaceSelector", "podSelector"}, "a list of two would allow either"


def test_probes_ask_what_the_daemon_answers(role, manifests):
    container = daemon_of(role, manifests)
    probes = [container[key] for key in ("startupProbe", "livenessProbe")]
    if role == "server":
        probes.append(container["readinessProbe"])
        assert [probe["grpc"] for probe in probes] == [{"port": HealthSettings().port}] * 3
        return
    assert "readinessProbe" not in container
    for probe in probes:
        program, option, module = probe["exec"]["command"]
        assert (program, option) == ("python", "-m")
        assert importlib.util.find_spec(module) is not None


def test_the_line_of_the_runbook_opens_health_for_the_kubelet(deploy, tmp_path):
    runbook = (deploy / "README.md").read_text(encoding="utf-8")
    script = re.search(r"-- sed -i '([^']+)' /var/lib/wardround-server/home/server\.toml", runbook)[
        1
    ]
    file = tmp_path / "server.toml"
    shutil.copy(deploy / "examples" / "server.toml", file)
    subprocess.run(["sed", "-i", script, str(file)], check=True)
    settings = parse_settings(file.read_text(encoding="utf-8"), origin="server.toml")
    assert (settings.health.host, settings.metrics.host) == ("0.0.0.0", "127.0.0.1")


def test_the_daemon_is_given_the_time_to_end(role, manifests):
    pod = manifests["StatefulSet", f"wardround-{role}"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 20
    assert daemon_of(role, manifests)["args"] == ["start"]


def test_what_kustomize_puts_together_is_all_but_the_pod_for_maintenance(role, deploy, documents):
    folder = deploy / role / "kubernetes"
    (content,) = documents(folder / "kustomization.yaml")
    files = {one.name for one in folder.glob("*.yaml")}
    assert set(content["resources"]) == files - {"kustomization.yaml", "maintenance.yaml"}


def built(folder):
    said = subprocess.run([KUBECTL, "kustomize", str(folder)], capture_output=True, check=True)
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(said.stdout)}


@needs_kubectl
def test_with_a_gpu_nothing_but_image_and_gpu_is_different(deploy):
    plain, gpu = built(deploy / "site" / "kubernetes"), built(deploy / "site" / "kubernetes-gpu")
    for manifest in gpu.values():
        check(manifest)
    container = daemon_of("site", gpu)
    assert container["resources"]["limits"].pop("nvidia.com/gpu") == "1"
    assert container["image"] == "wardround-site-cuda:0.1.0"
    container["image"] = daemon_of("site", plain)["image"]
    assert gpu == plain


@needs_kubectl
def test_kubectl_knows_every_field_of_a_pod(manifests):
    """With `--local` it reads a manifest into its own types, which drop what they do not have."""
    for (kind, name), manifest in manifests.items():
        if kind not in {"Pod", "StatefulSet"}:
            continue
        said = subprocess.run(
            [KUBECTL, "set", "image", "--local", "-f", "-", "*=same", "--output", "json"],
            input=json.dumps(manifest),
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        assert missing(manifest, json.loads(said.stdout)) <= {".image"}, name


def missing(asked, understood, where=""):
    """Names of fields that are in one and not, or otherwise, in the other."""
    if isinstance(asked, dict):
        return {
            fault
            for key, one in asked.items()
            for fault in missing(one, understood.get(key), f".{key}")
        }
    if isinstance(asked, list):
        if not isinstance(understood, list) or len(asked) != len(understood):
            return {where}
        pairs = zip(asked, understood, strict=True)
        return {fault for one, two in pairs for fault in missing(one, two, where)}
    return set() if asked == understood else {where}
