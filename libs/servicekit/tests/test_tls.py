"""TLS contexts: what they accept, and the one line about a file that cannot be used."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.tls import TlsFiles
from towpath.testkit.certificates import Authority, Issued


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issue("localhost")


def refusal(files: TlsFiles) -> str:
    with pytest.raises(BadSetting) as bad:
        files.client_context()
    assert "\n" not in str(bad.value)
    return str(bad.value)


def test_a_client_context_verifies_certificate_and_name_and_needs_tls_1_2(authority: Authority) -> None:
    for files in (TlsFiles("TOWPATH_AMQP"), TlsFiles("TOWPATH_AMQP", ca=authority.ca)):
        context = files.client_context()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_with_an_authority_only_its_certificates_are_trusted(authority: Authority) -> None:
    trusted = TlsFiles("TOWPATH_AMQP", ca=authority.ca).client_context().get_ca_certs(binary_form=True)
    assert trusted == [ssl.PEM_cert_to_DER_cert(Path(authority.ca).read_text())]


def test_a_server_context_needs_tls_1_2(issued: Issued) -> None:
    files = TlsFiles("TOWPATH_TLS", certificate=issued.certificate, key=issued.key)
    assert files.server_context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_first_setting_that_names_a_file_is_known() -> None:
    assert TlsFiles("TOWPATH_AMQP").named is None
    assert TlsFiles("TOWPATH_AMQP", key="k").named == "TOWPATH_AMQP_KEY"
    assert TlsFiles("TOWPATH_AMQP", ca="a", key="k").named == "TOWPATH_AMQP_CA"


def test_a_file_that_does_not_exist_is_named_with_its_setting(tmp_path: Path, issued: Issued) -> None:
    gone = str(tmp_path / "gone.pem")
    assert refusal(TlsFiles("TOWPATH_AMQP", ca=gone)) == f"TOWPATH_AMQP_CA='{gone}': is not a file"
    assert refusal(TlsFiles("TOWPATH_AMQP", None, gone, issued.key)).startswith("TOWPATH_AMQP_CERTIFICATE=")
    assert refusal(TlsFiles("TOWPATH_AMQP", None, issued.certificate, gone)).startswith("TOWPATH_AMQP_KEY=")


@pytest.mark.parametrize("device", ["/dev/zero", "/tmp"])
def test_a_device_or_a_folder_is_not_read(device: str) -> None:
    assert "is not a file" in refusal(TlsFiles("TOWPATH_AMQP", ca=device))


def test_certificate_and_key_are_needed_together(issued: Issued) -> None:
    only_key = TlsFiles("TOWPATH_AMQP", key=issued.key)
    only_certificate = TlsFiles("TOWPATH_AMQP", certificate=issued.certificate)
    assert refusal(only_key) == "TOWPATH_AMQP_CERTIFICATE: is required with TOWPATH_AMQP_KEY"
    assert refusal(only_certificate) == "TOWPATH_AMQP_KEY: is required with TOWPATH_AMQP_CERTIFICATE"


def test_the_key_of_another_certificate_is_refused(authority: Authority, issued: Issued) -> None:
    files = TlsFiles("TOWPATH_AMQP", None, issued.certificate, authority.issue("localhost").key)
    assert f"is not the key of {issued.certificate}" in refusal(files)


def test_each_file_that_is_not_pem_is_the_one_that_is_named(tmp_path: Path, issued: Issued) -> None:
    noise = tmp_path / "noise.pem"
    noise.write_text("hunter2\n" * 100)
    for files, setting in (
        (TlsFiles("TOWPATH_AMQP", ca=str(noise)), "TOWPATH_AMQP_CA"),
        (TlsFiles("TOWPATH_AMQP", None, str(noise), issued.key), "TOWPATH_AMQP_CERTIFICATE"),
        (TlsFiles("TOWPATH_AMQP", None, issued.certificate, str(noise)), "TOWPATH_AMQP_KEY"),
    ):
        told = refusal(files)
        assert told.startswith(f"{setting}='{noise}': ")
        assert "hunter2" not in told


def test_an_encrypted_key_is_refused_and_no_passphrase_is_asked_for(tmp_path: Path, issued: Issued) -> None:
    key = load_pem_private_key(Path(issued.key).read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    )
    told = refusal(TlsFiles("TOWPATH_AMQP", None, issued.certificate, str(encrypted)))
    assert "is encrypted; store it without a passphrase" in told


def test_the_text_of_a_key_instead_of_its_path_is_refused_and_not_shown(issued: Issued) -> None:
    text = Path(issued.key).read_text()
    told = refusal(TlsFiles("TOWPATH_AMQP", None, issued.certificate, text))
    assert told == "TOWPATH_AMQP_KEY: must be the path of a PEM file, not its content"
