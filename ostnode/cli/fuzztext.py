"""What `ostnode fuzz` tells: findings with their reproducers, cases with their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ostnode.cli.output import Value, lines_of
from ostnode.fuzz.cases import Case, Dial, Greet, Pause, Prove, Send, Step
from ostnode.fuzz.playing import Finding
from ostnode.fuzz.searching import Found

_DATA_SHOWN_BYTES = 48


def found_json(found: Found, target: str) -> dict[str, Value]:
    """A finding: what, where, and how to see it again."""
    return {
        "what": found.finding.what,
        "detail": found.finding.detail,
        "layer": str(found.case.layer),
        "case": found.case.name,
        "number": found.number,
        "after_s": round(found.after_s, 1),
        "steps": [step_text(step) for step in found.case.steps],
        "file": str(found.file),
        "replay": f"ostnode fuzz {target} --replay {found.file}",
    }


def report_text(data: Mapping[str, Value]) -> str:
    """The report for people."""
    findings = data["findings"]
    assert isinstance(findings, list)
    head = lines_of({**data, "findings": len(findings)})
    return "\n".join([head, *map(_finding_text, findings)])


def _finding_text(finding: Mapping[str, Value]) -> str:
    steps = finding["steps"]
    assert isinstance(steps, list)
    detail = f"\n  {finding['detail']}" if finding["detail"] else ""
    return (
        f"\nFOUND {finding['what']}{detail}"
        f"\n  after {finding['number']} cases, {finding['after_s']} s"
        f"\n  {finding['layer']}: {finding['case']}\n"
        + "\n".join(f"    {step}" for step in steps)
        + f"\n  again: {finding['replay']}"
    )


def case_json(
    file: Path, case: Case, findings: Sequence[Finding], smaller: Case | None
) -> dict[str, Value]:
    """A replayed case and what it showed; `text` says it in lines."""
    shown = [{"what": finding.what, "detail": finding.detail} for finding in findings]
    lines = [f"{file}: {case.layer}: {case.name}"]
    lines += [f"    {step_text(step)}" for step in (smaller or case).steps]
    lines += [f"  FOUND {finding.what} {finding.detail}".rstrip() for finding in findings]
    if not findings:
        lines.append("  nothing found")
    if smaller is not None:
        lines.append(f"  smaller: {file.with_suffix('.min.json')}")
    return {
        "file": str(file),
        "layer": str(case.layer),
        "case": case.name,
        "findings": shown,
        "text": "\n".join(lines),
    }


def step_text(step: Step) -> str:
    """A step on one line."""
    match step:
        case Pause(seconds):
            return f"pause {seconds:g} s"
        case Dial(link, to):
            return f"link {link}: dial the {to}"
        case Greet(link, who, changes):
            return f"link {link}: HELLO of {who}" + (f" with {dict(changes)}" if changes else "")
        case Prove(link, who, over, side, binding):
            odd = [f"over link {over}" * (over >= 0), f"as {side}" * (side != "dialler")]
            odd.append("for another channel" * bool(binding))
            return " ".join([f"link {link}: AUTH of {who}", *filter(None, odd)])
        case Send():
            return _send_text(step)
        case _:
            return f"link {step.link}: {step.do}"


def _send_text(step: Send) -> str:
    data = step.data[:_DATA_SHOWN_BYTES].hex() + "…" * (len(step.data) > _DATA_SHOWN_BYTES)
    more = [
        f"{len(step.data)} bytes {data}",
        f"+ {step.zeros} zeros" * bool(step.zeros),
        f"{step.times} times" * (step.times > 1),
        f"cut at {', '.join(map(str, step.cuts))}" * bool(step.cuts),
        f"every {step.gap:g} s" * bool(step.cuts and step.gap),
    ]
    return f"link {step.link}: send " + " ".join(filter(None, more))
