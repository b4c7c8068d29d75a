"""Writes what Grafana and Prometheus read out of the bundle operations/monitoring/seamless_v2.jsonnet.

The bundle is the one source; a test says when the files beside it are not those of the bundle.
"""

import json
from pathlib import Path

import yaml

MONITORING = Path(__file__).resolve().parent.parent / "operations" / "monitoring"
HEAD = "# Of seamless_v2.jsonnet by scripts/unpack_bundle.py; edit that file and run it.\n"


def unpack(bundle_text: str) -> dict[str, str]:
    """Return the text of each file by its path below operations/monitoring/."""
    bundle = json.loads(bundle_text)
    files = {
        f"dashboards/{board['uid']}.json": json.dumps(board, indent=1, ensure_ascii=False) + "\n"
        for board in bundle["dashboards"]
    }
    rules = bundle["recordingRules"] + bundle["alerts"]
    group = {"name": bundle["bundle"], "interval": "15s", "rules": rules}
    text = yaml.safe_dump({"groups": [group]}, sort_keys=False, allow_unicode=True, width=1000)
    files[f"{bundle['bundle']}_rules.yml"] = HEAD + text
    return files


if __name__ == "__main__":
    for name, text in unpack((MONITORING / "seamless_v2.jsonnet").read_text("utf-8")).items():
        (MONITORING / name).write_text(text, "utf-8")
        print(name)
