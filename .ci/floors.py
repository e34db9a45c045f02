"""Hold the default run's report against the least accuracy that it must reach."""

import json
import sys

FLOORS = {"synthetic": 0.95, "real": 0.975}

with open("data/report/metrics.json", encoding="utf-8") as file:
    accuracy = json.load(file)["accuracy"]
failed = False
for arm, floor in FLOORS.items():
    mean, std = accuracy[arm]["mean"], accuracy[arm]["std"]
    ok = mean >= floor and len(accuracy[arm]["per_seed"]) >= 3
    failed |= not ok
    print(f"{arm}: {mean:.4f} +- {std:.4f}, floor {floor}: {'holds' if ok else 'BROKEN'}")
sys.exit(failed)
