"""Test that both engines run the same stages for a params.yaml, and rerun only those that have changed."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_calls import BIN, ENVIRONMENT, call
from helpers import ROOT, copy_project, keep_one_evaluation, select_pairs, wait_until, write_params

from rr.params import load_params
from rr.workflow.verify import find_grid_mismatches

pytestmark = pytest.mark.engine
ENGINES = {"dvc": ("dvc", "repro"), "snakemake": ("snakemake", "--cores", "1")}
FAULTS = ("full disk", "killed stage", "killed engine", "Ctrl-C", "bug")
# If the target is the pretraining dataset, every parameter that affects `extract` also affects an earlier stage, so the
# engines are forced to run `extract`.
FORCE_EXTRACT = {
    "dvc": ("--force", "--single-item", "extract@shapes-conv4-relational-1-shapes"),
    "snakemake": ("--forcerun", "extract"),
}
# For each stage, a change to a parameter that affects this stage but no earlier one.
CHANGES: dict[str, Callable[[dict], object]] = {
    "fetch": lambda params: params["datasets"]["shapes"]["source"].update(seed=1),
    "convert": lambda params: params["datasets"]["shapes"].update(image_size=24),
    "pretrain": lambda params: params["methods"]["relational"].update(views=2),
    "extract": lambda params: None,
    "evaluate": lambda params: params["protocols"]["knn"].update(neighbors=4),
    "report": lambda params: params["grid"]["method"].reverse(),
}


@pytest.fixture(scope="module")
def dvc_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose grid DVC has run."""
    folder = copy_project(tmp_path_factory.mktemp("dvc"))
    call(folder, "dvc", "repro")
    return folder


@pytest.fixture(scope="module")
def snakemake_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose grid Snakemake has run."""
    folder = copy_project(tmp_path_factory.mktemp("snakemake"))
    call(folder, "snakemake", "--cores", "2")
    return folder


def read_metrics(folder: Path) -> dict[str, dict]:
    files = sorted((folder / "runs").rglob("metrics.json"))
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in files}


def read_artifacts(folder: Path) -> dict[str, bytes]:
    """Return the contents of all outputs and records."""
    folders = ("data/raw", "data/beton", "runs/pretrain", "runs/history", "runs/features", "runs/evaluate", "report")
    files = (path for name in folders for path in (folder / name).rglob("[!.]*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def outdated(folder: Path) -> tuple[set[str], set[str]]:
    """Return what DVC and Snakemake would run now: DVC's stages, and Snakemake's output files."""
    status = call(folder, "dvc", "status", "--json")
    stages = {name.split("@")[0] + ":" + name.partition("@")[2] for name in json.loads(status)}
    rows = [line.split("\t") for line in call(folder, "snakemake", "--detailed-summary").splitlines() if "\t" in line]
    header = next(row for row in rows if row[0] == "output_file")
    plan, output = header.index("plan"), header.index("output_file")
    return stages, {row[output] for row in rows if len(row) > plan and row[plan] != "no update" and row is not header}


def test_both_engines_expand_the_same_stages(tmp_path: Path) -> None:
    from dvc.repo import Repo

    folder = copy_project(tmp_path)

    def change(params: dict) -> None:
        params["datasets"]["more"] = params["datasets"]["shapes"]
        params["grid"].update(
            data=["shapes", "more"], dataset=["shapes", "more"], target=["more", "shapes"], seed=[1, 2],
            method=["random", "supervised", "relational"],
        )  # fmt: skip

    write_params(folder, change)
    for editor_file in (
        "methods/.pairs.py.swp",
        "methods/pairs.py~",
        "methods/#pairs.py#",
        "views/augment_kernel.py.orig",
    ):
        (folder / "rr" / editor_file).write_text("not code")
    stages = {}
    with Repo(str(folder)) as repo:
        for stage in repo.index.stages:
            dependencies = [dep.fs_path for dep in stage.deps if type(dep).__name__ == "Dependency"]
            code_folders = [path for path in dependencies if os.path.isdir(path) and path.startswith(f"{folder}/rr/")]
            code = [file for path in code_folders for file in repo.dvcignore.find(stage.deps[0].fs, path)]
            inputs = {os.path.relpath(path, folder) for path in {*dependencies, *code} - set(code_folders)}
            outputs = {os.path.relpath(out.fs_path, folder) for out in stage.outs}
            for output in outputs:
                stages[output] = (stage.cmd, inputs)

    jobs, commands = {}, set()
    fields: dict[str, str] = {}
    for line in call(folder, "snakemake", "--dry-run", "--printshellcmds").splitlines():
        key, _, value = line.strip().partition(": ")
        fields[key] = value
        if key == "Shell command" and value.startswith("rr "):
            commands.add(" ".join(value.split(" > ")[0].split()))
            jobs |= {output: set(fields["input"].split(", ")) for output in fields["output"].split(", ")}

    assert commands == {command for command, _ in stages.values()}
    assert set(stages) == set(jobs)
    assert len(stages) == 2 * 2 + 2 * 4 + 12 * 5 + 12 * 2 * 2 + 12 * 2 * 2 * 5 + 5
    for output, (_, inputs) in stages.items():
        folders = {name for name in inputs if "." not in Path(name).name}
        # In dvc.yaml, the report cannot list all output files of a matrix, so it depends on folders. Snakemake lists
        # the files in these folders.
        files = {name for name in jobs[output] if not any(Path(folder) in Path(name).parents for folder in folders)}
        assert files == inputs - folders


def test_dvc_and_the_grid_agree_on_the_parameters_of_each_stage(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    from rr.workflow.stage_runs import STAGE_PARAMETERS

    stages = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    for stage, keys in STAGE_PARAMETERS.items():
        listed = [key.replace("${item.", "{") for key in stages[stage]["params"]]
        # Most backbones have no entry in `backbones`, and DVC requires that a listed key exists.
        assert ["backbones.{backbone}" if key == "backbones" else key for key in listed] == list(keys)


def test_snakemake_compares_the_parameters_of_outputs_that_dvc_wrote(dvc_project: Path) -> None:
    output = call(dvc_project, "snakemake", "-n")
    assert "Nothing to be done" in output
    assert "missing provenance" not in output
    try:
        write_params(dvc_project, lambda params: params["methods"]["relational"].update(views=3))
        output = call(dvc_project, "snakemake", "-n")
        assert "Params have changed since last execution" in output
        assert re.search(r"^pretrain +1$", output, re.MULTILINE)
        assert "shapes/conv4/random/1" not in output.partition("rule report:")[0]
        write_params(dvc_project, lambda params: params["grid"].update(seed=[1, 2]))
        output = call(dvc_project, "snakemake", "-n")
        assert re.search(r"^pretrain +2$", output, re.MULTILINE)
        assert re.search(r"^report +1$", output, re.MULTILINE)
    finally:
        write_params(dvc_project)


def test_after_dvc_both_engines_are_up_to_date(dvc_project: Path) -> None:
    assert "Data and pipelines are up to date." in call(dvc_project, "dvc", "repro")
    assert "Nothing to be done" in call(dvc_project, "snakemake", "-n")
    verify = call(dvc_project, "rr", "verify", "--recompute")
    assert "every artifact matches its record" in verify
    assert (
        "/shapes/conv4/relational/1 was rerun, and the loss, accuracy and weights are the same, bit for bit" in verify
    )


def test_after_snakemake_and_sync_both_engines_are_up_to_date(snakemake_project: Path) -> None:
    assert "Nothing to be done" in call(snakemake_project, "snakemake", "-n")
    subprocess.run(["git", "add", "-A"], cwd=snakemake_project, check=True)  # DVC refuses outputs that git tracks
    call(snakemake_project, "rr", "sync")
    assert call(snakemake_project, "dvc", "repro").count("didn't change, skipping") == 11
    assert "Data and pipelines are up to date." in call(snakemake_project, "dvc", "status")


def test_both_engines_produce_the_same_outputs(dvc_project: Path, snakemake_project: Path) -> None:
    assert read_metrics(dvc_project) == read_metrics(snakemake_project)
    assert len(read_metrics(dvc_project)) == 4
    run = "shapes/conv4/relational/1"
    for file in (
        f"runs/pretrain/{run}/backbone.safetensors", f"runs/pretrain/{run}/last_epoch.safetensors",
        f"runs/pretrain/{run}/views.png", f"runs/history/{run}.csv",
    ):  # fmt: skip
        assert (dvc_project / file).read_bytes() == (snakemake_project / file).read_bytes()


def test_changed_parameter_reruns_only_dependent_stages(dvc_project: Path) -> None:
    try:
        write_params(dvc_project, lambda params: params["methods"]["relational"].update(views=3))
        stages, files = outdated(dvc_project)
        assert stages == {"pretrain:shapes-conv4-relational-1"}
        assert files
        assert all("/relational/" in name or name.startswith("report/") for name in files)
        # The pretraining run is not registered. The other runs match their records.
        output = call(dvc_project, "rr", "sync")
        assert "sync: registered 10 of 11 runs; `rr verify` shows why the others were not" in output
        assert outdated(dvc_project) == (stages, files)
    finally:
        write_params(dvc_project)
    assert outdated(dvc_project) == (set(), set())


def test_dvc_shows_metrics_plots_and_changed_parameters(dvc_project: Path, tmp_path: Path) -> None:
    metrics = json.loads(call(dvc_project, "dvc", "metrics", "show", "--json"))
    assert len(metrics[""]["data"]) == 4
    assert "WARNING" not in call(dvc_project, "dvc", "plots", "show", "--out", str(tmp_path))
    page = (tmp_path / "index.html").read_text()
    for axis in ("loss", "accuracy", "label", "prediction"):
        assert f'"field": "{axis}"' in page
    assert page.count('"field": "xy_count"') >= 4  # a confusion matrix for each evaluation
    try:
        write_params(dvc_project, lambda params: params["methods"]["relational"].update(views=3))
        assert "methods.relational.views" in call(dvc_project, "dvc", "params", "diff")
    finally:
        write_params(dvc_project)


def test_deleted_outputs_are_restored_from_the_cache(dvc_project: Path) -> None:
    weights = dvc_project / "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    output = call(dvc_project, "dvc", "repro", "--pull")
    assert "Pulling data for stage: 'pretrain@shapes-conv4-relational-1'" in output
    assert "Running stage" not in output
    assert weights.read_bytes() == content


def test_other_files_in_the_folder_of_runs_do_not_change_the_report(dvc_project: Path) -> None:
    names = (
        "notes.md", "NOTES", ".DS_Store", "Thumbs.db", "history/shapes/conv4/relational/.1.csv.swp",
        "history/shapes/conv4/relational/1 copy.csv~", "history/.ipynb_checkpoints/1-checkpoint.csv",
        "pretrain/shapes/conv4/relational/1/relational.onnx", "resume/shapes/conv4/relational/1/resume.pt",
    )  # fmt: skip
    try:
        for name in names:
            path = dvc_project / "runs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        assert "Data and pipelines are up to date." in call(dvc_project, "dvc", "status")
    finally:
        for name in names:
            (dvc_project / "runs" / name).unlink()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("stage", "fault"), select_pairs(CHANGES, FAULTS))
def test_failed_stage_keeps_the_former_outputs(
    engine: str, stage: str, fault: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = request.getfixturevalue(f"{engine}_project")
    before = read_artifacts(project)
    write_params(project, CHANGES[stage])
    monkeypatch.chdir(project)
    options = FORCE_EXTRACT[engine] if stage == "extract" else ()
    try:
        path = f"{Path(__file__).parent / 'faults'}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
        process = subprocess.run(
            [str(BIN / ENGINES[engine][0]), *ENGINES[engine][1:], *options],
            start_new_session=True, capture_output=True, text=True,
            env=ENVIRONMENT | {"PYTHONPATH": path, "RR_TEST_FAULT": f"{stage}: {fault}"},
        )  # fmt: skip
        assert process.returncode != 0, "the fault did not occur"
        assert f"rr {stage}" in process.stdout + process.stderr
        assert read_artifacts(project) == before
        messages = [message for _, found in find_grid_mismatches(load_params(Path("params.yaml"))) for message in found]
        assert bool(messages) == (stage != "extract")
        assert all("its parameters in params.yaml have changed since the run" in message for message in messages)
    finally:
        write_params(project)
    if engine == "dvc":
        assert "Data and pipelines are up to date." in call(project, "dvc", "status")
    else:
        call(project, "snakemake", "--unlock")  # Snakemake leaves its lock behind when it is killed
        assert "Nothing to be done" in call(project, "snakemake", "-n")


def test_snakemake_repeats_a_stage_that_finished_after_snakemake_was_killed(snakemake_project: Path) -> None:
    """Snakemake has recorded neither the new parameters nor the new outputs."""
    folder = snakemake_project
    record = folder / "data/raw/shapes/run.json"
    status_file = folder / ".rr/status/fetch/shapes.json"
    shutil.rmtree(folder / ".rr/status", ignore_errors=True)
    try:
        write_params(folder, CHANGES["fetch"])
        process = subprocess.Popen(
            [str(BIN / "snakemake"), "--cores", "1", "data/raw/shapes/run.json"], cwd=folder, env=ENVIRONMENT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(status_file.exists, process)
        process.kill()
        process.wait()
        wait_until(lambda: not status_file.exists())  # until the stage has finished
        assert json.loads(record.read_text())["params"]["datasets.shapes.source"]["seed"] == 1
    finally:
        write_params(folder)
    call(folder, "snakemake", "--unlock")
    call(folder, "snakemake", "--cores", "2", "data/raw/shapes/run.json")
    assert json.loads(record.read_text())["params"]["datasets.shapes.source"]["seed"] == 0
    assert "every artifact matches its record" in call(folder, "rr", "verify")


@pytest.mark.parametrize("engine", [("dvc", "repro"), ("snakemake", "--cores", "2")])
def test_killed_engine_continues_to_the_same_bits(tmp_path: Path, dvc_project: Path, engine: tuple[str, ...]) -> None:
    folder = copy_project(tmp_path, keep_one_evaluation)
    process = subprocess.Popen(
        [str(BIN / engine[0]), *engine[1:]], cwd=folder, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    checkpoint = folder / "runs/resume/shapes/conv4/relational/1/resume.pt"
    wait_until(checkpoint.exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if engine[0] == "snakemake":
        call(folder, "snakemake", "--unlock")  # Snakemake leaves its lock behind when it is killed
    call(folder, *engine)
    assert read_metrics(folder).items() <= read_metrics(dvc_project).items()
    weights = "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors"
    assert (folder / weights).read_bytes() == (dvc_project / weights).read_bytes()
    assert "every artifact matches its record" in call(folder, "rr", "verify")


def test_snakemake_config_that_would_not_reach_the_stages_raises(snakemake_project: Path) -> None:
    output = call(snakemake_project, "snakemake", "-n", "--config", "threads=1", code=1)
    assert "--config is not supported: set parameters in params.yaml" in output
    (snakemake_project / "other.yaml").write_text("threads: 1\n")
    output = call(snakemake_project, "snakemake", "-n", "--configfile", "other.yaml", code=1)
    assert "other.yaml: the file must contain only the key 'suites', got threads: put the suite under" in output


def test_snakemake_runs_several_suites(tmp_path: Path) -> None:
    folder = copy_project(tmp_path)
    shutil.copy(ROOT / "params.yaml", folder)
    for name, seed in (("one", 7), ("two", 10)):  # in PyYAML, 010 is 8
        (folder / f"{name}.yaml").write_text(
            f"suites: {{{name}: {{grid: {{data: [shapes], dataset: [shapes], backbone: [conv4], method: [{name}-run], "
            f"seed: [{seed:03d}], target: [shapes], protocol: [knn]}}, "
            f"methods: {{{name}-run: {{base: relational, epochs: 1, views: {seed}}}}}}}}}"
        )
    params_file = folder / "params.yaml"
    params = params_file.read_text()
    fewer_images = params.replace("train: 5000, test: 2000", "train: 200, test: 50")
    assert fewer_images != params
    params_file.write_text(fewer_images)
    suites = ("--configfile", "one.yaml", "two.yaml")
    call(folder, "snakemake", "--cores", "2", *suites)
    for name, seed in (("one", 7), ("two", 10)):
        record = json.loads((folder / f"runs/pretrain/shapes/conv4/{name}-run/{seed}/run.json").read_text())
        assert record["params"][f"methods.{name}-run"]["views"] == seed
    assert len(read_metrics(folder)) == 2
    assert "Nothing to be done" in call(folder, "snakemake", "-n", *suites)
    call(folder, "rr", "verify", "--params", ".rr/suites/one+two.yaml")
    assert params_file.read_text() == fewer_images  # the suites do not change the file


def test_both_engines_show_the_message_of_a_failed_stage(snakemake_project: Path) -> None:
    def change(params: dict) -> None:
        params["datasets"]["mine"] = {
            **params["datasets"]["shapes"],
            "source": {"kind": "imagefolder", "path": "nowhere", "test_fraction": 0.2, "on_unreadable": "raise"},
        }
        params["grid"].update(data=["shapes", "mine"], dataset=["mine"])

    try:
        write_params(snakemake_project, change)
        expected = "rr: nowhere is not a folder: fix the source's path in params.yaml"
        assert expected in call(snakemake_project, "snakemake", "--cores", "1", code=1)
        assert expected in call(snakemake_project, "dvc", "repro", "fetch@mine", code=255)
    finally:
        write_params(snakemake_project)
