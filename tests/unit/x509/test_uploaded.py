"""Each refusal of an upload, by its reason; and what must not be refused."""

from __future__ import annotations

from datetime import timedelta
from time import thread_time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from handclasp.certificate_service.x509.uploaded import (
    TrustAnchorCertificate,
    UploadedChain,
    VerifiedChain,
    check_leaf,
    read_upload,
    verify_chain,
)
from handclasp.errors import Reason
from tests.support import der as asn1
from tests.support.outside_ca import (
    ANY_PURPOSE,
    CLIENT_AUTH,
    SERVER_AUTH,
    UNKNOWN_EXTENSION,
    Issued,
    OutsideCA,
    glued_pem,
    huge_rsa_certificate,
    key_usage,
    name,
    pem_block,
    pem_of,
    rsa_key,
    self_signed,
    sha1_signed,
    signature_twin,
    uri,
    version_1,
)
from tests.unit.x509.refusals import NOW, refused

DOMAIN = "handclasp.example"
ROOT = OutsideCA(now=NOW)
INTERMEDIATE = ROOT.intermediate()
RSA_ROOT = OutsideCA("RSA CA", key=rsa_key(), now=NOW)


def anchor(ca: OutsideCA, anchor_id: str = "anchor") -> TrustAnchorCertificate:
    return TrustAnchorCertificate(anchor_id, ca.certificate)


def check(issued: Issued) -> None:
    check_leaf(read_upload(pem=issued.pem), trust_domain=DOMAIN, now=NOW)


def verify(issued: Issued, *anchors: TrustAnchorCertificate) -> VerifiedChain:
    return verify_chain(read_upload(pem=issued.pem), anchors or (anchor(ROOT),), now=NOW)


class TestReading:
    def test_a_chain_as_pem(self) -> None:
        leaf = INTERMEDIATE.issue()
        assert read_upload(pem=leaf.pem) == UploadedChain(leaf.certificate, (INTERMEDIATE.certificate,))

    def test_a_leaf_as_der(self) -> None:
        leaf = INTERMEDIATE.issue()
        assert read_upload(der=leaf.der) == UploadedChain(leaf.certificate)

    def test_text_around_the_blocks_and_missing_line_feeds_between_them(self) -> None:
        leaf = INTERMEDIATE.issue()
        for pem in (
            f"Bag Attributes\n  subject=x\n{leaf.pem}\ntrailing text -----",
            glued_pem(leaf.certificate, *leaf.intermediates),
            leaf.pem.replace("\n", "\r\n"),
        ):
            assert read_upload(pem=pem) == UploadedChain(leaf.certificate, (INTERMEDIATE.certificate,))

    @pytest.mark.parametrize(
        "sent",
        [
            {},
            {"pem": ROOT.pem, "der": ROOT.der},
            {"pem": ""},
            {"der": b""},
            {"pem": "-----BEGIN CERTIFICATE-----\nMIIB"},
            {"pem": ROOT.pem.replace("-----END", "----END")},
            {"pem": ROOT.pem[:200] + "!" + ROOT.pem[200:]},
            {"pem": ROOT.issue().pem + "-----BEGIN CERTIFICATE-----"},
            {"pem": pem_block("CERTIFICATE", ROOT.issue().der + b"\x00")},
            {"pem": pem_block("X509 CRL", ROOT.issue().der)},
            {"pem": ROOT.issue().pem + "x" * 65_536},
            {"der": ROOT.issue().der + b"\x00"},
            {"der": ROOT.issue().der[:-1]},
            {"der": b"\x30\x82" + b"\xff" * 70_000},
        ],
    )
    def test_anything_but_certificates_is_refused(self, sent: dict[str, str | bytes]) -> None:
        with refused(Reason.CERTIFICATE_INVALID):
            read_upload(**sent)  # type: ignore[arg-type]  # a table of wrong calls

    def test_ten_certificates_are_the_limit(self) -> None:
        leaf = ROOT.issue()
        assert len(read_upload(pem=leaf.pem + ROOT.pem * 9).intermediates) == 9
        with refused(Reason.CERTIFICATE_INVALID, "11 certificates", "10"):
            read_upload(pem=leaf.pem + ROOT.pem * 10)

    def test_a_private_key_is_refused_and_not_repeated(self) -> None:
        leaf = ROOT.issue()
        with pytest.raises(Exception, match="private key") as caught:
            read_upload(pem=leaf.pem + leaf.key_pem)
        assert not any(line in str(caught.value) for line in leaf.key_pem.splitlines())

    @pytest.mark.filterwarnings("ignore:Parsed a serial number")
    def test_serial_numbers_that_are_negative_or_endless_are_refused(self) -> None:
        for content in (b"\xff\x01", b"\x01" + b"\x00" * 20, b"\x01" * 5000):
            tbs, algorithm, signature = asn1.children(ROOT.issue().der)
            parts = asn1.children(tbs)
            parts[1] = asn1.tlv(asn1.INTEGER, content)
            with refused(Reason.CERTIFICATE_INVALID):
                read_upload(der=asn1.sequence(asn1.sequence(*parts), algorithm, signature))

    def test_an_extension_that_is_broken_inside_is_refused(self) -> None:
        broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x82\x01")
        with refused(Reason.CERTIFICATE_INVALID):
            read_upload(der=ROOT.issue(extensions=[(broken, False)]).der)

    @pytest.mark.parametrize(("bits", "exponent"), [(16384, 65537), (65536, 65537), (8192, 2**8191 + 1)])
    def test_huge_rsa_keys_are_refused_before_anything_is_computed(self, bits: int, exponent: int) -> None:
        huge = huge_rsa_certificate(bits, exponent=exponent)
        begun = thread_time()
        with refused(Reason.KEY_NOT_ACCEPTED):
            read_upload(der=huge)
        with refused(Reason.KEY_NOT_ACCEPTED):
            read_upload(pem=ROOT.issue().pem + pem_block("CERTIFICATE", huge))
        assert thread_time() - begun < 0.5


class TestLeaf:
    @pytest.mark.parametrize(
        "leaf",
        [
            ROOT.issue(),
            INTERMEDIATE.issue(),
            ROOT.issue(key=ec.generate_private_key(ec.SECP384R1())),
            ROOT.issue(key=rsa_key()),
            ROOT.issue(purposes=None),
            ROOT.issue(purposes=(SERVER_AUTH, CLIENT_AUTH)),
            ROOT.issue(purposes=(ANY_PURPOSE, CLIENT_AUTH)),
            ROOT.issue(usage=None),
            ROOT.issue(ca=None),
            ROOT.issue(alternative=[uri("spiffe://other.example/user/alice"), x509.DNSName(DOMAIN)]),
            ROOT.issue(extensions=[(UNKNOWN_EXTENSION, False)]),
            RSA_ROOT.issue(rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32)),
        ],
    )
    def test_good_ones_pass(self, leaf: Issued) -> None:
        check(leaf)

    def test_the_ends_of_the_validity_count(self) -> None:
        moment = NOW.replace(microsecond=0)
        leaf = ROOT.issue(not_before=moment, not_after=moment)
        check_leaf(read_upload(pem=leaf.pem), trust_domain=DOMAIN, now=moment)

    @pytest.mark.parametrize(
        ("leaf", "reason", "word"),
        [
            (ROOT.issue(not_after=NOW - timedelta(seconds=1)), Reason.CERTIFICATE_EXPIRED, "expired on 2030-01-31"),
            (ROOT.issue(not_before=NOW + timedelta(hours=1)), Reason.CERTIFICATE_NOT_YET_VALID, "2030-01-31 13:00:00"),
            (ROOT.issue(ca=True), Reason.CERTIFICATE_IS_CA, "CA:TRUE"),
            (
                ROOT.issue(usage=key_usage("digital_signature", "key_cert_sign")),
                Reason.CERTIFICATE_IS_CA,
                "keyCertSign",
            ),
            (Issued(INTERMEDIATE.certificate, INTERMEDIATE.key), Reason.CERTIFICATE_IS_CA, "CA:TRUE"),
            (self_signed(now=NOW), Reason.CERTIFICATE_SELF_SIGNED, "self-signed"),
            (self_signed(now=NOW, ca=True), Reason.CERTIFICATE_SELF_SIGNED, "trust anchor"),
            (ROOT.issue("OUTSIDE  ca"), Reason.CERTIFICATE_SELF_SIGNED, "self-signed"),
            (ROOT.issue(purposes=(SERVER_AUTH,)), Reason.CLIENT_AUTH_NOT_ALLOWED, "without clientAuth"),
            (ROOT.issue(purposes=(ANY_PURPOSE,)), Reason.CLIENT_AUTH_NOT_ALLOWED, "anyExtendedKeyUsage"),
            (ROOT.issue(usage=key_usage("key_agreement")), Reason.CLIENT_AUTH_NOT_ALLOWED, "digitalSignature"),
            (ROOT.issue(extensions=[(UNKNOWN_EXTENSION, True)]), Reason.CERTIFICATE_INVALID, "1.3.6.1.4.1.55555.1"),
            (version_1(ROOT), Reason.CERTIFICATE_INVALID, "version 1"),
            (sha1_signed(ROOT), Reason.CERTIFICATE_INVALID, "SHA-1"),
            (RSA_ROOT.issue(signature_hash=hashes.SHA3_256()), Reason.CERTIFICATE_INVALID, "TLS stacks do not accept"),
            (
                RSA_ROOT.issue(rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), 20)),
                Reason.CERTIFICATE_INVALID,
                "TLS stacks do not accept",
            ),
            (ROOT.issue(alternative=[uri(f"spiffe://{DOMAIN}/user/a")]), Reason.TRUST_DOMAIN_CLAIMED, DOMAIN),
            (ROOT.issue(alternative=[uri("spiffe://x"), uri(f"SPIFFE://{DOMAIN}.")]), Reason.TRUST_DOMAIN_CLAIMED, ""),
        ],
    )
    def test_others_are_refused_with_their_reason(self, leaf: Issued, reason: Reason, word: str) -> None:
        with refused(reason, word):
            check(leaf)

    @pytest.mark.parametrize(
        "key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP521R1()), rsa_key(1024)]
    )
    def test_keys_that_tls_refuses_are_refused(self, key: CertificateIssuerPrivateKeyTypes) -> None:
        leaf = ROOT.issue(key=key).certificate
        with refused(Reason.KEY_NOT_ACCEPTED):
            check_leaf(UploadedChain(leaf), trust_domain=DOMAIN, now=NOW)

    def test_an_unsigned_certificate_is_refused(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder(name("nobody"), name("partner"), key.public_key(), 1)
        builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
        unsigned = read_upload(pem=pem_of(builder.create_unsigned()))
        with refused(Reason.CERTIFICATE_INVALID):
            check_leaf(unsigned, trust_domain=DOMAIN, now=NOW)

    def test_names_made_for_mischief_do_not_reach_the_message(self) -> None:
        with pytest.raises(Exception, match="expired") as caught:
            check(ROOT.issue("a\r\nb\u202e" + "c" * 50, not_after=NOW - timedelta(days=0.5)))
        assert caught.value.args[0].isprintable()


class TestChain:
    def test_a_leaf_right_below_an_anchor(self) -> None:
        leaf = ROOT.issue()
        until = leaf.certificate.not_valid_after_utc
        assert verify(leaf) == VerifiedChain("anchor", (leaf.certificate,), until)

    def test_only_the_intermediates_in_use_are_kept_and_in_order(self) -> None:
        lower = INTERMEDIATE.intermediate("Lower CA")
        leaf = lower.issue()
        clutter = OutsideCA("Clutter", now=NOW)
        sent = pem_of(leaf.certificate, clutter.certificate, INTERMEDIATE.certificate, ROOT.certificate)
        chain = read_upload(pem=sent + lower.pem)
        found = verify_chain(chain, [anchor(clutter, "other"), anchor(ROOT)], now=NOW)
        assert found.anchor_id == "anchor"
        assert found.path == (leaf.certificate, lower.certificate, INTERMEDIATE.certificate)

    def test_an_intermediate_may_be_the_anchor(self) -> None:
        leaf = INTERMEDIATE.issue()
        assert verify(leaf, anchor(INTERMEDIATE, "middle")).path == (leaf.certificate,)

    @pytest.mark.parametrize("shortest", ["leaf", "intermediate", "anchor"])
    def test_trust_ends_with_the_first_to_expire(self, shortest: str) -> None:
        ends = {kind: NOW + timedelta(days=20) for kind in ("leaf", "intermediate", "anchor")}
        ends[shortest] = (NOW + timedelta(days=10)).replace(microsecond=0)
        root = OutsideCA(now=NOW, not_after=ends["anchor"])
        leaf = root.intermediate(not_after=ends["intermediate"]).issue(not_after=ends["leaf"])
        assert verify(leaf, anchor(root)).trusted_until == ends[shortest]

    @pytest.mark.parametrize("key_identifiers", [True, False])
    def test_two_anchors_of_one_name_both_work(self, key_identifiers: bool) -> None:
        cas = [OutsideCA("Twin CA", now=NOW, key_identifiers=key_identifiers) for _ in range(2)]
        anchors = [anchor(ca, str(position)) for position, ca in enumerate(cas)]
        for position, ca in enumerate(cas):
            assert verify(ca.issue(), *anchors).anchor_id == str(position)

    @pytest.mark.parametrize(
        "key",
        [
            ec.generate_private_key(ec.SECP384R1()),
            ec.generate_private_key(ec.SECP521R1()),
            ed25519.Ed25519PrivateKey.generate(),
            rsa_key(),
        ],
    )
    def test_cas_of_every_kind_of_key(self, key: CertificateIssuerPrivateKeyTypes) -> None:
        ca = OutsideCA(key=key, now=NOW)
        check(ca.issue())
        verify(ca.issue(), anchor(ca))
        verify(ROOT.intermediate(key=key).issue())

    def test_the_twin_of_a_certificate_chains_as_well(self) -> None:
        twin = read_upload(der=signature_twin(ROOT.issue().certificate))
        assert verify_chain(twin, [anchor(ROOT)], now=NOW).anchor_id == "anchor"

    def test_a_missing_intermediate_is_named(self) -> None:
        leaf = INTERMEDIATE.issue().certificate
        with refused(Reason.CHAIN_NOT_TRUSTED, "CN=Outside intermediate CA", "Send the intermediate", "trust anchor"):
            verify_chain(UploadedChain(leaf), [anchor(ROOT)], now=NOW)

    def test_a_missing_root_is_named(self) -> None:
        with refused(Reason.CHAIN_NOT_TRUSTED, "Nothing was found for `CN=Outside CA`"):
            verify(INTERMEDIATE.issue(), anchor(RSA_ROOT))
        with refused(Reason.CHAIN_NOT_TRUSTED, "Nothing was found for `CN=Outside CA`"):
            verify_chain(read_upload(pem=ROOT.issue().pem), [], now=NOW)

    def test_a_foreign_ca_of_the_same_name_is_not_taken(self) -> None:
        with refused(Reason.CHAIN_NOT_TRUSTED, "not the one meant"):
            verify(OutsideCA(now=NOW).issue())
        with refused(Reason.CHAIN_NOT_TRUSTED, "not by its key"):
            verify(OutsideCA(now=NOW, key_identifiers=False).issue())

    def test_a_changed_leaf_is_not_taken(self) -> None:
        leaf = ROOT.issue("partner").der
        changed = leaf.replace(b"partner", b"partnet")
        assert changed != leaf
        with refused(Reason.CHAIN_NOT_TRUSTED, "not by its key"):
            verify_chain(read_upload(der=changed), [anchor(ROOT)], now=NOW)

    def test_an_authority_key_identifier_by_serial_number_must_match(self) -> None:
        names = [x509.DirectoryName(ROOT.name)]
        right = x509.AuthorityKeyIdentifier(None, names, ROOT.certificate.serial_number)
        verify(ROOT.issue(extensions=[(right, False)]))
        for wrong in (
            x509.AuthorityKeyIdentifier(None, names, 1),
            x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(name("x"))], ROOT.certificate.serial_number),
        ):
            with refused(Reason.CHAIN_NOT_TRUSTED, "not the one meant"):
                verify(ROOT.issue(extensions=[(wrong, False)]))

    @pytest.mark.parametrize(
        ("intermediate", "word"),
        [
            (ROOT.intermediate(not_after=NOW - timedelta(hours=1)), "expired on"),
            (ROOT.intermediate(not_before=NOW + timedelta(hours=1)), "valid only from"),
            (ROOT.intermediate(basic_constraints=False), "CA:TRUE"),
            (ROOT.intermediate(usage=key_usage("digital_signature")), "keyCertSign"),
            (ROOT.intermediate(purposes=(SERVER_AUTH,)), "clientAuth"),
            (ROOT.intermediate(extensions=[(UNKNOWN_EXTENSION, True)]), "critical extension"),
            (ROOT.intermediate(extensions=[(x509.PolicyConstraints(0, None), True)]), "critical extension"),
        ],
    )
    def test_an_intermediate_that_may_not_sign_is_not_taken(self, intermediate: OutsideCA, word: str) -> None:
        with refused(Reason.CHAIN_NOT_TRUSTED, word):
            verify(intermediate.issue())

    def test_an_anchor_must_be_a_ca_and_valid(self) -> None:
        for bad, word in (
            (OutsideCA(now=NOW, not_after=NOW - timedelta(hours=1)), "expired on"),
            (OutsideCA(now=NOW, not_before=NOW + timedelta(hours=1)), "valid only from"),
            (OutsideCA(now=NOW, basic_constraints=False), "CA:TRUE"),
        ):
            with refused(Reason.CHAIN_NOT_TRUSTED, word):
                verify(bad.issue(), anchor(bad))

    def test_a_leaf_cannot_sign_another(self) -> None:
        leaf = ROOT.issue("Not a CA")
        below = OutsideCA("Not a CA", key=leaf.key, now=NOW).issue()
        with refused(Reason.CHAIN_NOT_TRUSTED, "CA:TRUE"):
            verify(Issued(below.certificate, below.key, (leaf.certificate,)))
        with refused(Reason.CHAIN_NOT_TRUSTED, "CA:TRUE"):
            verify(below, TrustAnchorCertificate("leaf", leaf.certificate))

    def test_path_length_is_kept(self) -> None:
        for length, passes in ((0, False), (1, True)):
            root = OutsideCA(now=NOW, path_length=length)
            leaf = root.intermediate().issue()
            if passes:
                verify(leaf, anchor(root))
            else:
                with refused(Reason.CHAIN_NOT_TRUSTED, "pathLenConstraint"):
                    verify(leaf, anchor(root))

    def test_name_constraints_hold_for_everything_below(self) -> None:
        constraints = x509.NameConstraints([x509.DNSName("a.example")], None)
        root = OutsideCA(now=NOW, extensions=[(constraints, True)])
        for ca in (root, root.intermediate()):
            verify(ca.issue(alternative=[x509.DNSName("x.a.example")]), anchor(root))
            with refused(Reason.CHAIN_NOT_TRUSTED, "name constraints", "CN=Outside CA"):
                verify(ca.issue(alternative=[x509.DNSName("b.example")]), anchor(root))

    def test_name_constraints_made_to_keep_the_service_busy_do_not(self) -> None:
        subtrees = [x509.DirectoryName(name(f"x{number}")) for number in range(200)]
        extensions = [(x509.NameConstraints(subtrees, None), True)]
        key = ec.generate_private_key(ec.SECP256R1())
        knot = [OutsideCA("Knot", key=key, now=NOW, extensions=extensions) for _ in range(8)]
        leaf = knot[0].issue(alternative=[x509.DirectoryName(name(f"y{number}")) for number in range(24)])
        chain = UploadedChain(leaf.certificate, tuple(ca.certificate for ca in knot[1:]))
        begun = thread_time()
        with refused(Reason.CHAIN_NOT_TRUSTED):
            verify_chain(chain, [anchor(ROOT)], now=NOW)
        with refused(Reason.CHAIN_NOT_TRUSTED, "name constraints"):
            verify_chain(chain, [anchor(knot[0])], now=NOW)
        assert thread_time() - begun < 2

    def test_a_weak_signature_or_key_on_the_way_is_not_taken(self) -> None:
        # The intermediate's certificate, signed by the root with SHA-1.
        certificate = INTERMEDIATE.certificate
        parts = asn1.children(certificate.tbs_certificate_bytes)
        sha1 = asn1.sequence(bytes.fromhex("06072a8648ce3d0401"))
        tbs = asn1.sequence(*parts[:2], sha1, *parts[3:])
        assert isinstance(ROOT.key, ec.EllipticCurvePrivateKey)
        signature = ROOT.key.sign(tbs, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - that is the point
        weak = x509.load_der_x509_certificate(asn1.sequence(tbs, sha1, asn1.bit_string(signature)))
        leaf = INTERMEDIATE.issue()
        with refused(Reason.CHAIN_NOT_TRUSTED, "SHA-1"):
            verify(Issued(leaf.certificate, leaf.key, (weak,)))
        small = OutsideCA("Small", key=rsa_key(1024), now=NOW)
        with refused(Reason.CHAIN_NOT_TRUSTED, "1024 bits"):
            verify(small.issue(), anchor(small))

    def test_a_huge_key_of_an_anchor_is_not_computed_with(self) -> None:
        ca = OutsideCA(now=NOW, key_identifiers=False)
        huge = x509.load_der_x509_certificate(huge_rsa_certificate(65536, like=ca.certificate))
        begun = thread_time()
        with refused(Reason.CHAIN_NOT_TRUSTED, "65536 bits"):
            verify(ca.issue(), TrustAnchorCertificate("huge", huge))
        assert thread_time() - begun < 0.5

    def test_cas_that_all_sign_each_other_do_not_tie_up_the_search(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        knot = [OutsideCA("Knot", key=key, now=NOW) for _ in range(9)]
        leaf = knot[0].issue()
        begun = thread_time()
        with refused(Reason.CHAIN_NOT_TRUSTED, "one straight chain"):
            verify(Issued(leaf.certificate, leaf.key, tuple(ca.certificate for ca in knot)))
        # 9! paths would take hours.
        assert thread_time() - begun < 2
