"""The test bed, short: a mesh keeps its promises on a bad day, and each planted bug is found by what it breaks."""

from __future__ import annotations

from pathlib import Path

from chaos.checker.verdict import Violation
from tests.chaos.scenes import CARELESS, FORGETFUL, LATE, LINGERING, SOUND, Seen


def violations(seen: Seen, invariant: str) -> list[Violation]:
    return seen.verdicts[invariant].violations


def at(found: list[Violation], part: str) -> list[Violation]:
    """Those whose first record is an answer of this part."""
    return [one for one in found if one.records[0].get("at") == part]


def told(seen: Seen) -> str:
    lines = []
    for name, verdict in seen.verdicts.items():
        lines += [f"{name}: {one.what}\n    " + "\n    ".join(map(str, one.records)) for one in verdict.violations]
    return "\n".join(lines)


def test_on_a_bad_day_every_promise_is_kept(tmp_path: Path) -> None:
    """Kills, a freeze longer than a lease, cuts, a compaction, a wrong clock, deposed leaders: and nothing is broken.

    A promise that was not put to the test is not kept either.
    """
    seen = SOUND.play(tmp_path)
    assert all(verdict.kept for verdict in seen.verdicts.values()), told(seen)
    assert seen.progress.faults.total() == len(SOUND.plan.faults)
    tested = {name: verdict.checked for name, verdict in seen.verdicts.items()}
    assert tested["I1"]["receipts"] > 20
    assert tested["I1"]["calls with the dead"] > 50
    assert tested["I2"]["rotations"] > 3
    assert tested["I2"]["calls with valid credentials"] > 100
    assert tested["I3"]["sessions revoked"] > 3
    assert tested["I4"]["used more than once"] > 3
    assert tested["I5"]["revocations acknowledged"] > 20
    assert tested["I6"]["forgeries"] > 10
    assert tested["I7"]["recoveries"] >= 9


def test_each_bug_of_a_good_day_is_found_and_nothing_else(tmp_path: Path) -> None:
    """An epoch ignored on one node, an ack before applying, signing before the barrier, a refresh without compare.

    And, at one replica, tokens that claim a revision at which their session was revoked already.
    """

    def shows(seen: Seen) -> dict[str, bool]:
        told_wrong = {
            node: any("applied the revocation" in one.what for one in at(violations(seen, "I1"), node))
            for node in ("node-1", "node-2")
        }
        return {
            "epoch-ignored": told_wrong["node-1"],
            "ack-before-applying": told_wrong["node-2"],
            "signing-before-the-barrier": any("had not acknowledged" in one.what for one in violations(seen, "I2")),
            "refresh-without-compare": any("traded for two" in one.what for one in violations(seen, "I4")),
            "token-across-a-revocation": any(
                "later revision" in one.what for one in at(violations(seen, "I3"), "auth-2")
            ),
        }

    for seen in CARELESS.play_until(tmp_path, shows):
        # A checker that finds fault with everything would find these bugs too.
        assert all(seen.verdicts[name].kept for name in ("I6", "I7")), told(seen)
        # What the other one stores without a compare may cross a revocation, too, and is then found as what it is.
        assert all("a session that was begun before" in one.what for one in violations(seen, "I3")), told(seen)


def test_each_thing_that_is_forgotten_is_found_and_nothing_else(tmp_path: Path) -> None:
    """A node that a receipt lacks, a key that a node keeps, the use of a refresh token, a revocation before it is
    committed."""

    def lost(seen: Seen) -> list[Violation]:
        return [one for one in violations(seen, "I5") if "is not in etcd" in one.what]

    def shows(seen: Seen) -> dict[str, bool]:
        removed = {record["kid"] for record in seen.history if record["op"] == "revoke-key"}
        accepted = at(violations(seen, "I1"), "node-1")
        return {
            "receipt-forgets-a-node": any("lacks" in one.what for one in at(violations(seen, "I1"), "auth-1")),
            "removed-key-still-accepted": any(one.records[1].get("kid") in removed for one in accepted),
            "reuse-is-forgiven": any("accepted again" in one.what for one in violations(seen, "I4")),
            "revoked-in-memory": bool(lost(seen)),
        }

    for seen in FORGETFUL.play_until(tmp_path, shows):
        assert at(lost(seen), "auth-2") == lost(seen)
        assert all(seen.verdicts[name].kept for name in ("I2", "I6", "I7")), told(seen)


def test_each_bug_of_a_bad_day_is_found_and_nothing_else(tmp_path: Path) -> None:
    """A freshness taken after the read, an expired credential or one for another service accepted, a stream that does
    not end, a plain method that refuses for being stale."""

    def shows(seen: Seen) -> dict[str, bool]:
        accepted = [one.what for one in at(violations(seen, "I6"), "node-1")]
        return {
            "freshness-after-the-read": bool(violations(seen, "I1")),
            "any-audience": any("accepted a forgery (audience)" in what for what in accepted),
            "expired-is-fine": any("accepted a credential" in what for what in accepted),
            "streams-outlive-tokens": any("went on with a stream" in what for what in accepted),
            "stale-for-everybody": bool(at(violations(seen, "I7"), "node-2")),
        }

    for seen in LATE.play_until(tmp_path, shows):
        assert all("strict" in one.what for one in violations(seen, "I1")), told(seen)
        assert all(seen.verdicts[name].kept for name in ("I2", "I3", "I4", "I5")), told(seen)
        for name, guilty in (("I6", {"node-1"}), ("I7", {"node-2"})):
            assert {one.records[0].get("at") for one in violations(seen, name)} <= guilty, told(seen)


def test_a_strict_stream_that_goes_on_at_a_stale_node_is_found_and_nothing_else(tmp_path: Path) -> None:
    def shows(seen: Seen) -> dict[str, bool]:
        return {"strict-streams-go-on": bool(violations(seen, "I1"))}

    for seen in LINGERING.play_until(tmp_path, shows):
        assert all("went on with a strict stream" in one.what for one in violations(seen, "I1")), told(seen)
        assert all(verdict.kept for name, verdict in seen.verdicts.items() if name != "I1"), told(seen)
