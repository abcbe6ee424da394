"""Check an installed wheel: `python -I check_wheel.py WHEEL`, run outside the repository.

The wheel must hold the four packages, their type markers and nothing else; every module in it must
import with the declared dependencies alone, from where the wheel was installed.
"""

import importlib
import pkgutil
import sys
import sysconfig
import zipfile
from pathlib import Path

PACKAGES = ("analysis", "envs", "sweeps", "testbed")


def main(wheel: str) -> None:
    """Exit with a message at the first thing that is wrong with ``wheel``."""
    files = zipfile.ZipFile(wheel).namelist()
    top = {file.split("/")[0] for file in files}
    unexpected = {entry for entry in top - set(PACKAGES) if not entry.endswith(".dist-info")}
    missing = {f"{package}/py.typed" for package in PACKAGES} - set(files)
    if unexpected or missing:
        sys.exit(f"{wheel}: unexpected {sorted(unexpected)}, missing {sorted(missing)}")
    site = Path(sysconfig.get_path("purelib")).resolve()
    modules = list(PACKAGES)
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        if Path(path[0]).resolve() != site / package:
            sys.exit(f"{package} was imported from {path[0]}, not from {site}")
        modules += [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    for module in modules:
        importlib.import_module(module)
    print(f"the wheel holds {', '.join(PACKAGES)}; its {len(modules)} modules import")


main(sys.argv[1])
