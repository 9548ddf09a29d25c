"""The manifests in samples/kserve, by KServe's own schema and by the server's options and endpoints."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter_export.cli.serve import command
from adapter_export.serving.inference.routes import ROUTES
from samples import environments
from samples.assets import AssetError

SAMPLES = Path(__file__).parents[2] / "samples/kserve"
FOLDER = Path(__file__).parent / "kserve"
SCHEMA = FOLDER / "inferenceservice.json"
Validate = Callable[..., list[list[str]]]


def documents(name: str) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((SAMPLES / name).read_text(encoding="utf-8"))]


def pod(document: dict[str, Any]) -> dict[str, Any]:
    """The description of the pods of a Deployment or an InferenceService."""
    spec = document["spec"]
    found: dict[str, Any] = spec["predictor"] if "predictor" in spec else spec["template"]["spec"]
    return found


def served() -> Iterator[dict[str, Any]]:
    """The pods in which this project's server runs."""
    yield pod(documents("adapter-export.yaml")[0])
    yield pod(documents("deployment.yaml")[0])


@pytest.fixture(scope="module")
def validate() -> Validate:
    """Called as (document, ...) -> the errors of each, by the schema of InferenceService."""
    try:
        python = environments.python(environments.SCHEMAS)
    except AssetError as error:
        pytest.skip(str(error))

    def errors(*given: dict[str, Any]) -> list[list[str]]:
        content = json.dumps({"schema": json.loads(SCHEMA.read_text(encoding="utf-8")), "documents": given})
        command = [str(python), str(FOLDER / "validate.py")]
        done = subprocess.run(command, input=content, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found: list[list[str]] = json.loads(done.stdout)
        return found

    return errors


def test_the_schema_is_the_one_that_its_readme_describes() -> None:
    digest = hashlib.sha256(SCHEMA.read_bytes()).hexdigest()
    assert f"| sha256 of `inferenceservice.json` | `{digest}` |" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_manifests_fit_the_schema_and_wrong_ones_do_not(validate: Validate) -> None:
    own, triton = documents("adapter-export.yaml")[0], documents("triton.yaml")[0]
    # The pods of a predictor have the fields of any pod.
    plain = {"spec": {"predictor": pod(documents("deployment.yaml")[0])}}
    misspelt, text, unnamed = (copy.deepcopy(own) for _ in range(3))
    (container,) = pod(misspelt)["containers"]
    container["livenesProbe"] = container.pop("livenessProbe")
    pod(text)["minReplicas"] = "two"
    pod(unnamed)["containers"][0].pop("name")
    *right, wrong_name, wrong_type, missing = validate(own, triton, plain, misspelt, text, unnamed)
    assert right == [[], [], []]
    assert "'livenesProbe' was unexpected" in wrong_name[0]
    assert "'two' is not of type 'integer'" in wrong_type[0]
    assert "'name' is a required property" in missing[0]


@pytest.mark.parametrize("described", [*served()], ids=["kserve", "deployment"])
def test_pods_run_the_server_as_it_is(described: dict[str, Any]) -> None:
    (container,) = described["containers"]
    options = command.make_context("serve", list(container["args"])).params
    ports = {port.get("name"): port["containerPort"] for port in container["ports"]}
    assert options["host"] == "0.0.0.0"
    assert [*ports.values()] == [options["port"]]
    paths = {route.path for route in ROUTES}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert ports.get(asked["port"], asked["port"]) == options["port"]
    # Time for requests that were accepted last, and for the load balancer to see that no more are.
    assert described["terminationGracePeriodSeconds"] > options["drain_seconds"] + options["seconds"]
    ready = container["readinessProbe"]
    assert options["drain_seconds"] >= 2 * ready["periodSeconds"] * ready["failureThreshold"]
    # The bundle is on a volume that is there.
    volumes = {volume["name"] for volume in described["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {*mounts.values()} == volumes
    assert any(options["bundle"].is_relative_to(path) for path in mounts)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_service_and_autoscaler_belong_to_the_deployment() -> None:
    deployment, service, scaler = documents("deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    named = {port["name"] for port in pod(deployment)["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    target = scaler["spec"]["scaleTargetRef"]
    assert [target["kind"], target["name"]] == [deployment["kind"], deployment["metadata"]["name"]]
