"""The test bed in short runs: a mesh keeps its promises under faults, and each mutation is found by what it breaks."""

from __future__ import annotations

from pathlib import Path

from chaos.checker.verdict import Violation
from tests.chaos.scenes import (
    ETCD_AWAY_MUTATIONS,
    LOSING_MUTATIONS,
    MUTATIONS_WITHOUT_FAULTS,
    NO_MUTATIONS,
    STALE_STREAM_MUTATION,
    SceneResult,
)


def violations(result: SceneResult, invariant: str) -> list[Violation]:
    return result.verdicts[invariant].violations


def at(found: list[Violation], part: str) -> list[Violation]:
    """The violations whose first record is an answer of this part."""
    return [one for one in found if one.records[0].get("at") == part]


def described(result: SceneResult) -> str:
    lines = []
    for name, verdict in result.verdicts.items():
        lines += [f"{name}: {one.what}\n    " + "\n    ".join(map(str, one.records)) for one in verdict.violations]
    return "\n".join(lines)


def test_every_promise_is_kept_under_faults(tmp_path: Path) -> None:
    """The faults: kills, a freeze longer than a lease, cuts, a compaction, a wrong clock, deposed leaders.

    The counts make sure that each promise was put to the test.
    """
    result = NO_MUTATIONS.run(tmp_path)
    assert all(verdict.kept for verdict in result.verdicts.values()), described(result)
    assert result.progress.faults.total() == len(NO_MUTATIONS.plan.faults)
    tested = {name: verdict.checked for name, verdict in result.verdicts.items()}
    assert tested["I1"]["receipts"] > 20
    assert tested["I1"]["calls with revoked credentials"] > 50
    assert tested["I2"]["rotations"] > 3
    assert tested["I2"]["calls with valid credentials"] > 100
    assert tested["I3"]["sessions revoked"] > 3
    assert tested["I4"]["used more than once"] > 3
    assert tested["I5"]["revocations acknowledged"] > 20
    assert tested["I6"]["forgeries"] > 10
    assert tested["I7"]["recoveries"] >= 9


def test_each_mutation_that_shows_without_faults_is_found_and_only_those(tmp_path: Path) -> None:
    """An epoch ignored on one node, an ack before applying, signing before the barrier, a refresh without compare.

    And, at one replica, tokens whose epoch is a revision at which their session was revoked already.
    """

    def find_mutations(result: SceneResult) -> dict[str, bool]:
        wrong_receipts = {
            node: any("applied the revocation" in one.what for one in at(violations(result, "I1"), node))
            for node in ("node-1", "node-2")
        }
        return {
            "epoch-ignored": wrong_receipts["node-1"],
            "ack-before-applying": wrong_receipts["node-2"],
            "signing-before-the-barrier": any("had not acknowledged" in one.what for one in violations(result, "I2")),
            "refresh-without-compare": any("exchanged for two" in one.what for one in violations(result, "I4")),
            "token-across-a-revocation": any(
                "later revision" in one.what for one in at(violations(result, "I3"), "auth-2")
            ),
        }

    for result in MUTATIONS_WITHOUT_FAULTS.run_until(tmp_path, find_mutations):
        # A checker that reports violations everywhere would report these mutations, too.
        assert all(result.verdicts[name].kept for name in ("I6", "I7")), described(result)
        # A session that auth-1 refreshes without a compare can cross a revocation, too: the same violation.
        assert all("a session that was begun before" in one.what for one in violations(result, "I3")), described(result)


def test_each_mutation_that_loses_something_is_found_and_only_those(tmp_path: Path) -> None:
    """The mutations lose a node of a receipt, the revocation of a key, the use of a refresh token, and a revocation."""

    def lost(result: SceneResult) -> list[Violation]:
        return [one for one in violations(result, "I5") if "is not in etcd" in one.what]

    def find_mutations(result: SceneResult) -> dict[str, bool]:
        removed = {record["kid"] for record in result.history if record["op"] == "revoke-key"}
        accepted = at(violations(result, "I1"), "node-1")
        return {
            "receipt-forgets-a-node": any("lacks" in one.what for one in at(violations(result, "I1"), "auth-1")),
            "removed-key-still-accepted": any(one.records[1].get("kid") in removed for one in accepted),
            "reuse-is-forgiven": any("accepted again" in one.what for one in violations(result, "I4")),
            "revoked-in-memory": bool(lost(result)),
        }

    for result in LOSING_MUTATIONS.run_until(tmp_path, find_mutations):
        assert at(lost(result), "auth-2") == lost(result)
        assert all(result.verdicts[name].kept for name in ("I2", "I6", "I7")), described(result)


def test_each_mutation_that_shows_without_etcd_is_found_and_only_those(tmp_path: Path) -> None:
    """The age of a proof counts from its answer, expired or wrong-audience credentials are accepted, streams outlive
    their tokens, and plain methods refuse at a stale node."""

    def find_mutations(result: SceneResult) -> dict[str, bool]:
        accepted = [one.what for one in at(violations(result, "I6"), "node-1")]
        return {
            "freshness-after-the-read": bool(violations(result, "I1")),
            "any-audience": any("accepted a forgery (audience)" in what for what in accepted),
            "expired-is-fine": any("accepted a credential" in what for what in accepted),
            "streams-outlive-tokens": any("went on with a stream" in what for what in accepted),
            "stale-for-everybody": bool(at(violations(result, "I7"), "node-2")),
        }

    for result in ETCD_AWAY_MUTATIONS.run_until(tmp_path, find_mutations):
        assert all("strict" in one.what for one in violations(result, "I1")), described(result)
        assert all(result.verdicts[name].kept for name in ("I2", "I3", "I4", "I5")), described(result)
        for name, guilty in (("I6", {"node-1"}), ("I7", {"node-2"})):
            assert {one.records[0].get("at") for one in violations(result, name)} <= guilty, described(result)


def test_strict_streams_that_go_on_at_a_stale_node_are_found_and_only_those(tmp_path: Path) -> None:
    def find_mutations(result: SceneResult) -> dict[str, bool]:
        return {"strict-streams-go-on": bool(violations(result, "I1"))}

    for result in STALE_STREAM_MUTATION.run_until(tmp_path, find_mutations):
        assert all("went on with a strict stream" in one.what for one in violations(result, "I1")), described(result)
        assert all(verdict.kept for name, verdict in result.verdicts.items() if name != "I1"), described(result)
