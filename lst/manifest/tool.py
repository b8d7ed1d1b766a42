"""Which program wrote a manifest."""

from pathlib import Path

import lst


def tool_version() -> dict[str, str]:
    """`{"lst": version}` and, when run from a git checkout, its commit (read from the files: no subprocess)."""
    tool = {"lst": lst.__version__}
    commit = _git_commit(Path(lst.__file__).resolve().parent.parent / ".git")
    return {**tool, "commit": commit} if commit else tool


def _git_commit(git: Path) -> str | None:
    head = git / "HEAD"
    if not head.is_file():
        return None
    content = head.read_text(encoding="utf-8").strip()
    if not content.startswith("ref: "):
        return content
    reference = content.removeprefix("ref: ")
    loose = git / reference
    if loose.is_file():
        return loose.read_text(encoding="utf-8").strip()
    packed = git / "packed-refs"
    if packed.is_file():
        for line in packed.read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {reference}"):
                return line.split()[0]
    return None
