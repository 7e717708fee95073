"""The rules by which the Snakemake workflow catalog finds a workflow and describes it."""

import re

import yaml
from helpers import ROOT


def test_catalog_finds_and_describes_the_workflow() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (ROOT / "LICENSE").is_file()
    # The main file is `Snakefile` or `workflow/Snakefile`, and all other rules are in `workflow/rules/*.smk`.
    main = (ROOT / "Snakefile").read_text(encoding="utf-8")
    included = re.findall(r'^include: "(.*)"$', main, re.MULTILINE)
    assert included
    assert sorted(included) == sorted(f"workflow/rules/{path.name}" for path in (ROOT / "workflow/rules").iterdir())
    assert all(name.endswith(".smk") for name in included)
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert usage.keys() <= {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["software-stack-deployment"].keys() == {"conda", "singularity", "singularity+conda"}
