"""What a build's log says to the item's people."""

from agent.pipeline.build import BuildFindings
from agent.testing.builder_suite import RecordingLog

TOLD = b"#9 1.2 ERROR: Failed to install: a==1, b==2. During automated build process.\n"


async def test_packages_that_were_left_out_are_a_warning_wherever_the_log_is_cut() -> None:
    log = RecordingLog()
    findings = BuildFindings(log)
    for at in range(len(TOLD)):
        await findings.write(TOLD[at : at + 1])
    await findings.write(TOLD.strip())
    expected = "build: frozen requirements that could not be installed: a==1, b==2"
    assert findings.warning == expected
    assert log.data == TOLD + TOLD.strip()


async def test_a_quiet_build_warns_of_nothing() -> None:
    findings = BuildFindings(RecordingLog())
    await findings.write(b"x" * 200_000)
    await findings.write(b"\n#9 DONE\n")
    assert findings.warning is None
