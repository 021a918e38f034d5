"""What becomes of an attempt that an earlier process left: one pure table."""

from enum import Enum, auto


class Server(Enum):
    """What the control plane says about the attempt."""

    #: Ours, LEASED or PREPARING.
    UNSTARTED = auto()
    #: Ours, PERMITTED.
    PERMITTED = auto()
    #: Ours, STARTED.
    STARTED = auto()
    #: Not ours; it waits, or somebody else holds it.
    ELSEWHERE = auto()
    #: It has its outcome.
    OVER = auto()
    #: No such item, or none that we may see.
    UNKNOWN = auto()


class Noted(Enum):
    """What our journal says."""

    #: Nothing: it may have been lost, so this proves nothing.
    NOTHING = auto()
    #: No start was ever sent.
    OPENED = auto()
    #: A start may have been sent.
    INTENDED = auto()
    #: The outcome is known and was not acknowledged.
    OUTCOME = auto()
    #: Acknowledged, or dropped.
    OVER = auto()


class Seen(Enum):
    """What the runner finds under the attempt's name."""

    NOTHING = auto()
    #: Never started.
    CREATED = auto()
    #: Never started, and made for a lease that was lost: its token and devices are void.
    OUTDATED = auto()
    RUNNING = auto()
    EXITED = auto()


class Action(Enum):
    """What to do."""

    #: From the start of the line.
    PREPARE = auto()
    #: Permit, then start what is there.
    START = auto()
    #: Watch it, or read how it ended.
    FOLLOW = auto()
    #: Tell the outcome that the journal has.
    DELIVER = auto()
    #: Tell that nobody knows how it ended.
    LOSE = auto()
    #: Stop and remove what is left.
    SWEEP = auto()
    #: Touch nothing.
    LEAVE = auto()


def decide(server: Server, noted: Noted, seen: Seen) -> Action:
    """The table of design §5: never start what may have been started."""
    match server:
        case Server.UNSTARTED | Server.PERMITTED | Server.STARTED:
            return _ours(server, noted, seen)
        case Server.ELSEWHERE:
            return Action.LEAVE
        case Server.OVER:
            return Action.SWEEP
        case Server.UNKNOWN:
            # Ours by our own record, and nobody waits for it any more. Without a record it
            # may belong to another agent on the same engine.
            return Action.LEAVE if noted is Noted.NOTHING else Action.SWEEP


def _ours(server: Server, noted: Noted, seen: Seen) -> Action:
    if noted is Noted.OUTCOME:
        return Action.DELIVER
    match seen:
        case Seen.RUNNING | Seen.EXITED:
            return Action.FOLLOW
        case Seen.OUTDATED if server is Server.UNSTARTED:
            # Its creation is repeated, which replaces it.
            return Action.PREPARE
        case Seen.CREATED | Seen.OUTDATED:
            # Told to have started, and yet it never did: not the one that started.
            return Action.LOSE if server is Server.STARTED else Action.START
        case Seen.NOTHING:
            return _vanished(server, noted)


def _vanished(server: Server, noted: Noted) -> Action:
    match server:
        case Server.UNSTARTED:
            # Without a permit no start is sent, whatever was intended.
            return Action.PREPARE
        case Server.PERMITTED if noted is Noted.OPENED:
            return Action.PREPARE
        case _:
            return Action.LOSE
