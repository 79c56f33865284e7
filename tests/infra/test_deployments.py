"""The deployments file: errors name the field and the fix, and Prefect gets parameters with types, defaults and help."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from prefect.exceptions import ParameterTypeError

from erase_core import benchmark
from erase_core.spec import make_spec
from infra.deployments import ON_DEMAND, DeploymentsError, build, load_flow, read_deployments

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "complaint"),
    {
        "deployments: {}": "deployments: is empty",
        "deploy: {a: {flow: erase}}": "deploy: is not a key here; the keys are deployments",
        "deployments: {a: {flow: eraze}}": "deployments.a.flow: 'eraze' should be 'erase'",
        "deployments: {a: {flow: erase, when: daily}}": "deployments.a.when: is not a key here; the keys are flow, ",
        "deployments: {a: {flow: erase, cron: daily at two}}": "deployments.a.cron: 'daily at two' is not a cron expression",
        "deployments: {a: {flow: erase, cron: 0 2 * * *, timezone: Mars}}": "deployments.a.timezone: 'Mars' is not a time zone",
        "deployments: {a: {flow: erase, cron: 0 2 * * *, interval: 5}}": "deployments.a: has cron and interval; keep one",
        "deployments: {a: {flow: erase, interval: 0.1}}": "deployments.a.interval: 0.1 should be greater than or equal to 1",
        "deployments: {a: {flow: erase, interval: 60}}": "deployments.a.parameters.spec: is missing; a run that a schedule",
        "deployments: {a: {flow: pretrain, parameters: {speed: 1}}}": "deployments.a.parameters.speed: is not a parameter of",
        "deployments: {a: {flow: pretrain, parameters: {scale: fast}}}": "deployments.a.parameters.scale: 'fast' should be",
        "deployments: {a: {flow: erase, parameters: {spec: no.yaml}}}": "deployments.a.parameters.spec: /",
        "deployments: {a: {flow: erase, parameters: {spec: {name: x}}}}": "deployments.a.parameters.spec.concepts: is missing",
        "deployments: {a: {flow: batch, parameters: {lists: none}}}": "deployments.a.parameters.lists: ",
        "deployments: {a: {flow: benchmark, parameters: {methods: [naiv]}}}": "deployments.a.parameters.methods: naiv is",
        "deployments: {a: {flow: batch, parameters: {training_slots: 0}}}": "deployments.a.parameters.training_slots: 0 should be",
        "deployments: [": "not readable as YAML",
    }.items(),
)
def test_bad_file(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "deployments.yaml").write_text(text)
    with pytest.raises(DeploymentsError) as caught:
        read_deployments(tmp_path / "deployments.yaml")
    assert complaint in str(caught.value)


def test_the_example_is_right_and_scheduled_deployments_run_alone() -> None:
    built = {d.name: d for d in build(read_deployments(ROOT / "infra" / "deployments.example.yaml"))}
    nightly = built["nightly taxi"]
    assert (
        nightly.schedules[0].schedule.cron == "0 2 * * *" and nightly.schedules[0].schedule.timezone == "Europe/Berlin"
    )
    assert nightly.concurrency_limit == 1 and nightly.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert nightly.parameters == {"slots": True, "spec": str(ROOT / "examples" / "taxi.yaml")}
    assert built["nightly lists"].parameters["skip_wrong"] is True and "slots" not in built["nightly lists"].parameters
    assert built["erase"].concurrency_limit is None and not built["erase"].schedules
    assert built["hourly bus"].paused and nightly.entrypoint == "flows.erase.erase"


def test_a_spec_that_is_written_out_keeps_the_methods_own_defaults(tmp_path: Path) -> None:
    """As a file's does: what it does not say is no choice of its author."""
    path, base = tmp_path / "deployments.yaml", {"name": "b", "concepts": ["taxi"], "output": str(tmp_path / "out")}
    parameters = {"base": base, "methods": ["age"], "runs": None}
    path.write_text(yaml.safe_dump({"deployments": {"weekly": {"flow": "benchmark", "parameters": parameters}}}))
    given = read_deployments(path).deployments["weekly"].parameters
    cell = benchmark.Cell("objects-tuning", "A", "age", 0)
    found = [benchmark.spec_of(cell, make_spec(one)) for one in (given["base"], base)]
    assert found[0] == found[1] and found[0].training.learning_rate == 2e-3 and given["runs"] is None


def test_every_run_reads_its_specs_file_anew(monkeypatch, tmp_path: Path) -> None:
    """Wherever it is started; what is wrong is said when serving begins, and what became wrong since when a run starts."""
    (tmp_path / "spec.yaml").write_text("name: first\nconcepts: [taxi]\noutput: out\n")
    for flow, name in (("erase", "spec"), ("benchmark", "base")):
        path = tmp_path / "deployments.yaml"
        path.write_text(f"deployments: {{a: {{flow: {flow}, interval: 60, parameters: {{{name}: spec.yaml}}}}}}")
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            (deployment,) = build(read_deployments(Path("deployments.yaml")))
        assert jsonschema.Draft202012Validator(deployment._parameter_openapi_schema.model_dump()).is_valid(
            deployment.parameters
        )
        for named in ("first", "second"):
            (tmp_path / "spec.yaml").write_text(f"name: {named}\nconcepts: [taxi]\noutput: out\n")
            assert load_flow(flow).validate_parameters(deployment.parameters)[name].name == named
        (tmp_path / "spec.yaml").write_text("name: third\nconcepts: [taxi]\n")
        with pytest.raises(ParameterTypeError, match="output: is missing; add it"):
            load_flow(flow).validate_parameters(deployment.parameters)
        with pytest.raises(DeploymentsError, match=f"deployments.a.parameters.{name}: output: is missing; add it"):
            read_deployments(path)
        (tmp_path / "spec.yaml").write_text("name: first\nconcepts: [taxi]\noutput: out\n")


def test_runs_ask_for_slots_unless_their_deployment_says_that_they_need_none(tmp_path: Path) -> None:
    (tmp_path / "deployments.yaml").write_text("deployments: {a: {flow: erase, parameters: {slots: false}}}")
    assert build(read_deployments(tmp_path / "deployments.yaml"))[0].parameters == {"slots": False}
    asking = {d.name: d.parameters.get("slots", False) for d in build(ON_DEMAND)}
    assert asking == {"erase": True, "batch": False, "benchmark": True, "pretrain": False}


@pytest.mark.parametrize("folder", ["", "~/"])
def test_the_lists_of_a_batch_are_read_when_serving_begins(folder: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "cars.txt").write_text("taxi\n")
    (tmp_path / "base.yaml").write_text("name: b\noutput: o\n")
    text = "deployments: {a: {flow: batch, interval: 60, parameters: {spec: base.yaml, lists: lists}}}"
    text = text.replace("spec: ", f"spec: {folder}").replace("lists: ", f"lists: {folder}")
    (tmp_path / "deployments.yaml").write_text(text)
    found = read_deployments(tmp_path / "deployments.yaml").deployments["a"].parameters
    assert found == {"spec": str(tmp_path / "base.yaml"), "lists": str(tmp_path / "lists")}
    (tmp_path / "lists" / "cars.txt").write_text("no such thing\n")
    with pytest.raises(DeploymentsError, match="no such thing"):
        read_deployments(tmp_path / "deployments.yaml")
    (tmp_path / "lists" / "pets.txt").write_text("cat\n")
    (tmp_path / "deployments.yaml").write_text(text.replace("lists: ", "skip_wrong: true, lists: "))
    assert len(read_deployments(tmp_path / "deployments.yaml").deployments) == 1


TAXI = "spec: {name: a, concepts: [taxi], output: out/taxi}"


@pytest.mark.parametrize(
    ("other", "complaint"),
    {
        "{flow: benchmark, parameters: {base: {name: b, concepts: [taxi], output: out/taxi}}}": "base.output: 'out/taxi'",
        "{flow: batch, parameters: {spec: batch.yaml}}": "spec: 'out'",
        "{flow: erase, parameters: {spec: bus.yaml}}": "spec.output: 'out/taxi'",
        "{flow: erase, parameters: {spec: taxi.yaml}}": None,
        "{flow: pretrain, parameters: {output: out/taxi/world}}": "output: 'out/taxi/world'",
        "{flow: erase, parameters: {spec: {name: a, concepts: [bus], output: out/taxi}}}": "spec.output: 'out/taxi'",
        f"{{flow: erase, parameters: {{{TAXI}}}}}": None,
        "{flow: erase, parameters: {spec: {name: a, concepts: [taxi], output: out/taxi-2}}}": None,
        "{flow: erase}": None,
    }.items(),
)
def test_an_output_is_one_specs_alone(other: str, complaint: str | None, tmp_path: Path) -> None:
    (tmp_path / "batch.yaml").write_text("name: b\noutput: out\n")
    for concept in ("taxi", "bus"):
        (tmp_path / f"{concept}.yaml").write_text(f"name: a\nconcepts: [{concept}]\noutput: out/taxi\n")
    path = tmp_path / "deployments.yaml"
    path.write_text(
        f"deployments:\n  nightly: {{flow: erase, interval: 60, parameters: {{{TAXI}}}}}\n  other: {other}\n"
    )
    if complaint is None:
        assert len(read_deployments(path).deployments) == 2
        return
    with pytest.raises(DeploymentsError) as caught:
        read_deployments(path)
    assert (
        str(caught.value)
        == f"deployments.other.parameters.{complaint} is where 'nightly' writes; choose another output"
    )


def test_every_parameter_has_a_type_and_help() -> None:
    for deployment in build(ON_DEMAND):
        schema = deployment._parameter_openapi_schema.model_dump()
        for name, parameter in schema["properties"].items():
            assert parameter.get("description"), f"{deployment.name}.{name}"
            assert {"type", "$ref", "anyOf"} & set(parameter), f"{deployment.name}.{name}"
    training = build(ON_DEMAND)[0]._parameter_openapi_schema.model_dump()["definitions"]["Training"]["properties"]
    assert (
        training["steps"]["default"] == 100
        and training["steps"]["type"] == "integer"
        and training["steps"]["description"]
    )


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        ({"name": "x", "concepts": ["taxi"], "output": "o"}, True),
        ({"name": "x", "concepts": [{"concept": "taxi", "synonyms": ["cab"]}], "output": "o", "method": "uce"}, True),
        ({"name": "x", "concepts": ["taxi"], "output": "o", "method": {"name": "esd", "negative_guidance": 2}}, True),
        ({"name": "x", "concepts": ["taxi"], "output": "o", "method": {"name": "esd", "speed": 2}}, False),
        ({"name": "x", "concepts": ["taxi"], "output": "o", "training": {"steps": 0}}, False),
        ({"name": "x", "concepts": [1], "output": "o"}, False),
        ({"name": "x", "concepts": ["taxi"]}, False),
    ],
)
def test_prefect_takes_the_specs_that_are_right_and_no_others(spec: dict, right: bool) -> None:
    schema = build(ON_DEMAND)[0]._parameter_openapi_schema.model_dump()
    assert jsonschema.Draft202012Validator(schema).is_valid({"spec": spec}) is right
    if right:
        assert load_flow("erase").validate_parameters({"spec": spec})["spec"].name == "x"
