"""The JobSets: valid by JobSet's own schema, and such that JAX finds the processes in them."""

import json
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml
from jax._src.clusters import GkeTpuCluster, K8sCluster

import run

ROOT = Path(__file__).parents[2]
MANIFESTS = ["launch/gke_jobset.yaml", "launch/gpu_jobset.yaml"]


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def forbid_unknown_fields(schema):
    """As `kubectl apply` does by default; the schema alone lets them pass."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            schema.setdefault("additionalProperties", False)
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        forbid_unknown_fields(part)


@pytest.fixture(scope="module")
def validator():
    schema = json.loads((ROOT / "tests/launch/jobset_schema.json").read_text())
    forbid_unknown_fields(schema)
    schema["properties"]["metadata"] = {"type": "object"}  # which Kubernetes itself knows
    return jsonschema.Draft202012Validator(schema)


def job_of(manifest):
    [replicated] = manifest["spec"]["replicatedJobs"]
    return replicated["name"], replicated["template"]["spec"]


def container_of(manifest):
    [container] = job_of(manifest)[1]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("name", MANIFESTS)
def test_it_is_valid(name, validator):
    assert not [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(read(name))]


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda spec: spec["failurePolicy"]["rules"][0].pop("name"), "'name' is a required property"),
        (lambda spec: spec["failurePolicy"]["rules"][0].update(action="Restart"), "'Restart' is not one of"),
        (lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(backOffLimit=0), "'backOffLimit' was unexpected"),
        (lambda spec: spec["replicatedJobs"][0]["template"]["spec"].update(parallelism="4"), "'4' is not of type 'integer'"),
    ],
)
def test_a_mistake_would_be_found(break_it, complaint, validator):
    manifest = read(MANIFESTS[0])
    break_it(manifest["spec"])
    [error] = validator.iter_errors(manifest)
    assert complaint in error.message


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_run_that_was_told_to_stop_is_not_counted_as_one_that_failed(name):
    manifest = read(name)
    _, job = job_of(manifest)
    told, evicted = job["podFailurePolicy"]["rules"]
    saved = told["onExitCodes"]
    assert (saved["containerName"], saved["values"]) == (container_of(manifest)["name"], [128 + signal.SIGTERM])
    assert evicted["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert {rule["action"] for rule in (told, evicted)} == {"FailJob"}
    [rule] = manifest["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    # What Kubernetes asks of a Job with such a policy, and JAX of one whose processes are to be numbered.
    assert (job["template"]["spec"]["restartPolicy"], job["completionMode"], job["backoffLimit"]) == ("Never", "Indexed", 0)
    assert job["parallelism"] == job["completions"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_its_flags_are_those_of_the_program(name):
    given = dict(arg.removeprefix("--").split("=", 1) for arg in container_of(read(name))["args"])
    assert given.keys() <= set(run.flags.FLAGS)
    assert (ROOT / given["config"]).is_file()


def test_the_slice_has_as_many_chips_as_its_hosts(monkeypatch):
    manifest = read("launch/gke_jobset.yaml")
    name, job = job_of(manifest)
    topology = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = int(container_of(manifest)["resources"]["limits"]["google.com/tpu"])
    assert job["parallelism"] * chips == math.prod(map(int, topology.split("x")))
    # As GKE tells each pod of the slice, JAX numbers the processes.
    hosts = [f"{manifest['metadata']['name']}-{name}-0-{number}.{manifest['metadata']['name']}" for number in range(4)]
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", ",".join(hosts))
    monkeypatch.setenv("TPU_WORKER_ID", "3")
    monkeypatch.setattr(GkeTpuCluster, "wait_for_coordinator", lambda *_: None)
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "0")
    assert GkeTpuCluster.get_coordinator_address(1, None) == f"{hosts[0]}:8482"
    assert (GkeTpuCluster.get_process_id(), GkeTpuCluster.get_process_count()) == (3, job["completions"])


def test_the_coordinator_is_the_one_that_jax_would_find_in_kubernetes(monkeypatch):
    manifest = read("launch/gpu_jobset.yaml")
    name, job = job_of(manifest)
    jobset = manifest["metadata"]["name"]
    flags = dict(arg.removeprefix("--").split("=", 1) for arg in container_of(manifest)["args"])
    metadata = SimpleNamespace(name=f"{jobset}-{name}-0", labels={"jobset.sigs.k8s.io/jobset-name": jobset})
    monkeypatch.setattr(K8sCluster, "_controller", lambda: SimpleNamespace(kind="Job"))
    monkeypatch.setattr(K8sCluster, "_job", lambda: SimpleNamespace(metadata=metadata))
    monkeypatch.setattr(K8sCluster, "_pod", lambda: None)
    port = flags["coordinator"].rpartition(":")[2]
    assert flags["coordinator"] == K8sCluster.get_coordinator_address(None, port)
    assert (int(flags["processes"]), flags["process_id"]) == (job["completions"], "$(JOB_COMPLETION_INDEX)")
