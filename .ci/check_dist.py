"""What a user is given: python .ci/check_dist.py SDIST WHEEL..., run in the sources they were made from."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

IN_A_WHEEL = {".py", ".pyi", ".so"}


def wheel_faults(path: Path) -> list[str]:
    names = [PurePosixPath(name) for name in zipfile.ZipFile(path).namelist() if not name.endswith("/")]
    package = [name for name in names if not name.parts[0].endswith(".dist-info")]
    faults = [
        f"{path.name}: {name} has no business in a wheel"
        for name in package
        if name.parts[0] != "fairlead" or not (name.suffix in IN_A_WHEEL or name.name == "py.typed")
    ]
    expected = {source.relative_to("src") for source in Path("src").rglob("*.py*") if source.suffix != ".pyc"}
    missing = {str(name) for name in expected} - {str(name) for name in package}
    faults += [f"{path.name}: {name} is missing" for name in sorted(missing)]
    compiled = {str(name.parent / name.name.split(".")[0]) for name in package if name.suffix == ".so"}
    cython = [(source, source.relative_to("ext")) for source in Path("ext").rglob("*.pyx")]
    python = [(source, source.relative_to("src")) for source in Path("src").rglob("*.pxd")]
    for source, module in cython + python:
        if str(module.with_suffix("")) not in compiled:
            faults.append(f"{path.name}: {source} is not compiled in it")
    if "manylinux" not in path.name:
        faults.append(f"{path.name}: has no manylinux tag")
    return faults


def sdist_faults(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    faults = [f"{path.name}: {name} is generated" for name in sorted(names) if name.endswith((".c", ".so", ".pyc"))]
    wanted = [source for folder in ("ext", "src", "tests", "benches") for source in Path(folder).rglob("*")]
    wanted = [source for source in wanted if source.is_file() and "__pycache__" not in source.parts]
    wanted += map(Path, ("pyproject.toml", "setup.py", "README.md", "CHANGELOG.md", "LICENSE"))
    faults += [f"{path.name}: {source} is missing" for source in wanted if str(source) not in names]
    return faults


def main(sdist: str, *wheels: str) -> int:
    faults = sdist_faults(Path(sdist))
    for wheel in wheels:
        faults += wheel_faults(Path(wheel))
    print("\n".join(faults) or "\n".join(Path(path).name for path in (sdist, *wheels)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
