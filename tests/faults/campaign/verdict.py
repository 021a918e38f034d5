"""What was told, compared with what is true."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.campaign.jobs import Job, Ledger

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED", "PREEMPTED", "LOST", "REFUSED", "ERRORED"})
#: What the agent writes into a log in place of bytes that nobody has any more.
GAP = " of output are missing here"


@dataclass
class Verdict:
    """The figures of issue 11, and one line for each violation."""

    submitted: int
    finished: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    attempts_started: int = 0
    starts: int = 0
    missing: int = 0
    wrong: int = 0
    logs: int = 0
    logs_marked: int = 0
    logs_broken: int = 0
    violations: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        per_attempt = self.starts / self.attempts_started if self.attempts_started else 0
        whole = self.logs - self.logs_marked - self.logs_broken
        causes = {name: n for name, n in self.causes.items() if name != "SUCCEEDED"}
        return [
            f"faults: {self.faults.total()} {dict(self.faults)}",
            f"submitted and acknowledged: {self.submitted}; ended: {dict(self.finished)}",
            f"causes: {causes}",
            f"starts per attempt: {per_attempt:.3f} ({self.starts} of {self.attempts_started})",
            f"acknowledged and lost: {self.missing}",
            f"wrong outcomes: {self.wrong}",
            f"logs: {whole} whole, {self.logs_marked} marked, {self.logs_broken} neither",
            f"left: {len(self.left)} {self.left[:5]}",
            *self.violations[:20],
        ]


def judge(
    submitted: Mapping[str, Job], items: Sequence[Mapping[str, Any]], ledger: Ledger
) -> Verdict:
    """Everything but the logs. `items`: all of the queue, with their attempts."""
    verdict = Verdict(len(submitted))
    verdict.starts, verdict.attempts_started = ledger.starts.total(), len(ledger.starts)
    for (item, attempt), count in ledger.starts.items():
        if count > 1:
            verdict.violations.append(f"item {item}, attempt {attempt}: started {count} times")
    found = {item["id"]: item for item in items}
    for item_id in submitted.keys() - found.keys():
        verdict.missing += 1
        verdict.violations.append(f"item {item_id} was acknowledged and does not exist")
    for item_id, item in found.items():
        if item_id not in submitted:
            verdict.violations.append(f"item {item_id} was never acknowledged, or twice")
            continue
        verdict.finished[item["phase"]] += 1
        verdict.causes[item["cause"]] += 1
        wrong = _untruths(item, submitted[item_id], ledger)
        verdict.wrong += bool(wrong)
        verdict.violations += wrong
    return verdict


def judge_log(verdict: Verdict, item: Mapping[str, Any], job: Job, text: str) -> None:
    """The log of the attempt that finished."""
    verdict.logs += 1
    lines = text.splitlines()
    if lines == job.log():
        return
    if any(GAP in line for line in lines) or item["warnings"]:
        verdict.logs_marked += 1
        return
    verdict.logs_broken += 1
    verdict.violations.append(
        f"item {item['id']}: {len(lines)} of {job.lines} lines, the last is {lines[-1:]}"
    )


def _untruths(item: Mapping[str, Any], job: Job, ledger: Ledger) -> list[str]:
    wrong = [
        f"item {item['id']}, attempt {attempt['number']}: {why}; told as {attempt['phase']} "
        f"{attempt['cause']} {attempt['exitCode']}: {attempt['message']}"
        for attempt in item["attempts"]
        if (why := _untruth(item["id"], attempt, job, ledger))
    ]
    finished = [one for one in item["attempts"] if one["phase"] in {"SUCCEEDED", "FAILED"}]
    if len(finished) > 1:
        wrong.append(f"item {item['id']} finished {len(finished)} times")
    return wrong


def _untruth(item_id: str, attempt: Mapping[str, Any], job: Job, ledger: Ledger) -> str | None:
    key = (item_id, attempt["number"])
    code, starts = ledger.ends.get(key), ledger.starts[key]
    match attempt["phase"]:
        case "SUCCEEDED" | "FAILED" as phase:
            told = 0 if phase == "SUCCEEDED" else attempt["exitCode"]
            is_true = code == told and (code == 0) == (phase == "SUCCEEDED")
            return None if is_true else f"its exit code is {code}"
        case "STOPPED":
            return "nobody stopped it" if job.stopped_after is None else None
        case "LOST":
            return None
        case "ERRORED" if attempt["cause"] == "QUARANTINED" and not starts:
            return None  # three agents were killed that held it, before its permit
        case phase if phase not in ENDED:
            return "it never ended"
    return "it was started" if starts else "nothing was wrong with it"
