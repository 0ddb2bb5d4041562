from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.sessions.certificates import (
    AUTHORITY_LIFE,
    SERVING_LIFE,
    SETTLE,
    CertificateStep,
    plan_certificates,
)
from controlplane.sessions.pki import (
    CertificateBox,
    canonical_name,
    make_authority,
    make_serving,
    observe,
    perform,
    read_box,
    write_box,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = frozenset({"webhook.snapstart.svc", "webhook.snapstart.svc.cluster.local"})


def plan(
    box: CertificateBox, now: datetime, names: frozenset[str] = NAMES
) -> list[CertificateStep]:
    return list(plan_certificates(observe(box), now, names).steps)


def settle(box: CertificateBox, now: datetime, names: frozenset[str] = NAMES) -> CertificateBox:
    for step in plan(box, now, names):
        box = perform(box, step, now, names)
    assert plan(box, now, names) == [], "a plan that is done leaves nothing to do"
    return box


FRESH = settle(CertificateBox(), NOW)


def test_nothing_at_first_gives_an_authority_with_a_serving_certificate() -> None:
    assert plan(CertificateBox(), NOW) == [
        CertificateStep.MAKE_AUTHORITY,
        CertificateStep.MAKE_SERVING,
    ]
    assert FRESH.authority is not None
    assert FRESH.serving is not None
    assert FRESH.bundle == (FRESH.authority.certificate,)
    FRESH.serving.certificate.verify_directly_issued_by(FRESH.authority.certificate)


def test_a_fresh_box_needs_nothing() -> None:
    assert plan(FRESH, NOW + timedelta(hours=1)) == []


def test_the_serving_certificate_is_made_anew_in_its_last_third() -> None:
    assert plan(FRESH, NOW + SERVING_LIFE * 0.6) == []
    later = NOW + SERVING_LIFE * 0.7
    assert plan(FRESH, later) == [CertificateStep.MAKE_SERVING]
    renewed = settle(FRESH, later)
    assert renewed.authority == FRESH.authority
    assert renewed.bundle == FRESH.bundle


def test_other_names_make_another_serving_certificate() -> None:
    assert plan(FRESH, NOW, NAMES | {"other"}) == [CertificateStep.MAKE_SERVING]


def test_a_server_that_is_called_by_its_address_is_named_by_it() -> None:
    called = frozenset({"localhost", "192.0.2.7", canonical_name("2001:db8:0::1")})
    box = settle(FRESH, NOW, called)
    assert plan(box, NOW, called) == []
    assert box.serving is not None
    names = box.serving.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert len(names.value.get_values_for_type(x509.IPAddress)) == 2


def test_a_new_authority_is_trusted_before_it_signs() -> None:
    worn = NOW + AUTHORITY_LIFE * 0.7
    told = settle(FRESH, worn)
    assert told.coming is not None
    assert told.serving is not None
    assert len(told.bundle) == 2
    told.serving.certificate.verify_directly_issued_by(FRESH.bundle[0])

    assert plan(told, worn + SETTLE / 2) == []
    promoted = settle(told, worn + SETTLE)
    assert promoted.coming is None
    assert promoted.authority == told.coming
    assert promoted.serving is not None
    promoted.serving.certificate.verify_directly_issued_by(told.coming.certificate)
    assert FRESH.bundle[0] in promoted.bundle, "what replicas still serve stays trusted"


def test_the_old_authority_leaves_the_bundle_when_it_expires() -> None:
    worn = NOW + AUTHORITY_LIFE * 0.7
    promoted = settle(settle(FRESH, worn), worn + SETTLE)
    trimmed = settle(promoted, NOW + AUTHORITY_LIFE + timedelta(seconds=1))
    assert FRESH.bundle[0] not in trimmed.bundle


def test_after_a_year_without_us_everything_is_made_anew() -> None:
    after = NOW + AUTHORITY_LIFE * 2
    box = settle(FRESH, after)
    assert box.authority != FRESH.authority
    assert len(box.bundle) == 1


def test_an_authority_that_nobody_trusts_is_replaced() -> None:
    lost = CertificateBox(FRESH.authority, None, FRESH.serving, ())
    assert plan(lost, NOW)[0] is CertificateStep.MAKE_AUTHORITY


def test_the_serving_certificate_never_outlives_its_authority() -> None:
    authority = make_authority(NOW, timedelta(days=3))
    serving = make_serving(authority, NOW, ["a"])
    assert serving.certificate.not_valid_after_utc <= authority.certificate.not_valid_after_utc


def test_a_box_survives_the_secret() -> None:
    told = settle(FRESH, NOW + AUTHORITY_LIFE * 0.7)
    again = read_box(write_box(told))
    assert write_box(again) == write_box(told)


def test_private_keys_are_never_shown() -> None:
    assert "PRIVATE" not in repr(FRESH)
    assert "key=" not in repr(FRESH)


_secret = write_box(FRESH)


@given(st.sampled_from(sorted(_secret)), st.integers(0, 400), st.binary(max_size=3))
def test_a_spoilt_secret_is_read_as_absent_and_repaired(name: str, at: int, junk: bytes) -> None:
    raw = base64.b64decode(_secret[name])
    spoilt = dict(_secret)
    spoilt[name] = base64.b64encode(raw[:at] + junk + raw[at + 5 :]).decode()
    settle(read_box(spoilt), NOW)


def test_what_is_no_base64_is_read_as_absent() -> None:
    assert read_box(dict.fromkeys(_secret, "%%%")) == CertificateBox()


def test_a_key_of_another_certificate_is_no_pair() -> None:
    mixed = {**_secret, "tls.key": _secret["authority.key"]}
    assert read_box(mixed).serving is None
    assert plan(read_box(mixed), NOW) == [CertificateStep.MAKE_SERVING]


@pytest.mark.parametrize("jump", [-timedelta(hours=1), timedelta(hours=1)], ids=["back", "forward"])
def test_a_clock_that_is_set_by_an_hour_changes_no_certificate(jump: timedelta) -> None:
    assert plan(FRESH, NOW + jump) == []


@pytest.mark.parametrize("jump", [-timedelta(hours=1), timedelta(hours=1)], ids=["back", "forward"])
def test_certificates_made_while_the_clock_is_wrong_are_valid_by_the_right_one(
    jump: timedelta,
) -> None:
    box = settle(CertificateBox(), NOW + jump)
    assert plan(box, NOW) == []
    for pair in (box.authority, box.serving):
        assert pair is not None
        made = pair.certificate
        assert made.not_valid_before_utc <= NOW < made.not_valid_after_utc


def test_a_certificate_of_a_clock_ahead_is_not_used() -> None:
    assert plan(FRESH, NOW - timedelta(days=1))[-1] is CertificateStep.MAKE_SERVING


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=25))
def test_at_every_moment_what_is_served_is_trusted(days: list[int]) -> None:
    """A replica that looks now and then never leaves the API server without a valid chain."""
    now, box = NOW, FRESH
    for step in days:
        now += timedelta(days=step)
        before = box
        box = settle(settle(box, now), now + SETTLE)
        assert box.serving is not None
        assert box.authority is not None
        assert box.serving.certificate.not_valid_after_utc > now
        assert box.authority.certificate in box.bundle
        alive = [one for one in before.bundle if now < one.not_valid_after_utc]
        assert set(alive) <= set(box.bundle), "nothing valid is ever distrusted"
