"""compose.yaml: well formed, and no service may do more than it must. No container is started here."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command_lines import parse_line

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "compose.yaml"
FOUND: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = FOUND["services"]
SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-a-gpu")
LASTING = ("server", *SITES)


def by_schema(path: Path) -> subprocess.CompletedProcess[str]:
    """Check a file against the Compose Specification's own schema, which the tool brings along."""
    pytest.importorskip("check_jsonschema", reason="of the extra dev: pip install -e '.[dev]'")
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, check=False, cwd=path.parent
    )


def test_it_is_a_compose_file() -> None:
    """The file keeps to the schema of the Compose Specification."""
    found = by_schema(COMPOSE)
    assert found.returncode == 0, found.stdout


def test_the_schema_refuses_a_misspelt_key(tmp_path: Path) -> None:
    """That check would notice: with a key misspelt the file is refused."""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("cap_drop:", "cap_dropp:"), encoding="utf-8")
    found = by_schema(wrong)
    assert found.returncode == 1
    assert "cap_dropp" in found.stdout


def test_these_are_the_services() -> None:
    """A new service is looked at here before it counts."""
    assert set(SERVICES) == {"demo", *LASTING}


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_do_more_than_a_user_program(name: str) -> None:
    """Not root, no capability, nothing to gain by setuid, a root file system that is read-only."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108  in the container
    default = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["user"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", default), "root, or a user that only the image knows"
    may_not = {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "group_add", "env_file"}
    assert not may_not & set(service)


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_comes_back_and_tells_how_it_is(name: str) -> None:
    """Every service of a deployment has a health check, is started again, and has time to end in order."""
    service = SERVICES[name]
    check = service["healthcheck"]
    assert check["test"][0] == "CMD", "a shell is one more thing that can go wrong"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].removesuffix("s")) >= 30


def test_the_server_alone_publishes_a_port() -> None:
    """Sites open no port, the server one; the container listens on the very port of its kit."""
    assert {name for name, service in SERVICES.items() if "ports" in service or "expose" in service} == {
        "server"
    }
    (port,) = SERVICES["server"]["ports"]
    outside, inside = port[: len(port) // 2], port[len(port) // 2 + 1 :]
    assert outside == inside


def test_nobody_shares_the_hosts_network_and_sites_reach_the_server_alone() -> None:
    """In the rehearsal the sites' one network is internal, and the server is in it."""
    for name, service in SERVICES.items():
        assert service.get("network_mode", "none") == "none", name
    assert all(SERVICES[name]["networks"] == ["line"] for name in SITES)
    assert set(SERVICES["server"]["networks"]) == {"public", "line"}
    assert FOUND["networks"]["line"]["internal"] == "${CONSILIUM_NETWORK_INTERNAL:-true}"


@pytest.mark.parametrize("name", LASTING)
def test_a_service_sees_its_own_kit_and_its_own_data_alone(name: str) -> None:
    """One kit, which must be there and may be written; of the data its own folder, to be read."""
    own = name.removesuffix("-gpu")
    mounts = {mount["target"]: mount for mount in SERVICES[name]["volumes"]}
    assert set(mounts) == ({"/kit"} if name == "server" else {"/kit", "/data"})
    assert mounts["/kit"]["source"] == f"${{CONSILIUM_KITS:-./kits}}/{own}"
    assert not mounts["/kit"].get("read_only"), "the state lies in the kit"
    if name != "server":
        assert mounts["/data"]["source"] == f"${{CONSILIUM_DATA:-./data}}/{own}"
        assert mounts["/data"]["read_only"] is True
    assert all(mount["type"] == "bind" and not mount["bind"]["create_host_path"] for mount in mounts.values())


def test_no_secret_travels_by_the_environment() -> None:
    """Secrets lie in files of the kit; the environment says where home is, and whose."""
    assert all(set(service.get("environment", {})) <= {"HOME", "LOGNAME"} for service in SERVICES.values())
    assert not {"secrets", "configs"} & set(FOUND)


def test_one_service_builds_the_image_of_all() -> None:
    """The image is built once, installs what the tests ran with, and ends as a user of its own."""
    assert [name for name, service in SERVICES.items() if "build" in service] == ["demo"]
    assert {service["image"] for service in SERVICES.values()} == {"consilium:local"}
    steps = SERVICES["demo"]["build"]["dockerfile_inline"].splitlines()
    assert any("pip install" in step and "-c constraints.txt" in step for step in steps)
    users = [step.split()[1] for step in steps if step.startswith("USER ")]
    assert users == ["consilium"]
    assert not [step for step in steps if step.startswith(("ARG ", "ENV ", "ADD "))]


def test_the_demo_runs_without_a_profile() -> None:
    """`docker compose run --rm demo` and a plain `up` start the demo; real services are asked for by name."""
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["demo"]
    assert "depends_on" not in SERVICES["demo"]


def test_only_the_package_enters_the_image() -> None:
    """.dockerignore leaves out all but what the wheel is built from: no kit, key or run."""
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    built = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    assert let_in == wheel | built | set(project["project"]["license-files"])
    assert all((ROOT / name).exists() for name in let_in)
    assert {"**/*.key", "**/*.pem"} <= set(lines)


def commands() -> list[list[str]]:
    """Every command line of ``consilium`` in the file."""
    lines = [service["command"] for service in SERVICES.values()]
    lines += [SERVICES[name]["healthcheck"]["test"][1:] for name in LASTING]
    return [line for line in lines if line[0] == "consilium"]


@pytest.mark.parametrize("line", commands(), ids=" ".join)
def test_each_command_is_one(line: list[str]) -> None:
    """Commands, options and arguments in the file are those of the program."""
    parse_line(line)  # raises for what there is not


@pytest.mark.parametrize("name", SITES)
def test_the_check_of_a_site_is_python(name: str) -> None:
    """The health check's program can be compiled, and knows the modules that a site starts."""
    _, python, option, program = SERVICES[name]["healthcheck"]["test"]
    assert (python, option) == ("python", "-c")
    compile(program, "healthcheck", "exec")
    for module in re.findall(r'"(clients\.\w+)"', program):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
