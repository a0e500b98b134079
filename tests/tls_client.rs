//! The client's side of TLS, by bytes: against rustls's server, however they are cut, and against what is no server.

use std::io::{Read, Write};
use std::sync::Arc;

use penstock::protocol::tls::{Client, Session, TlsError, Trust};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn trust(&self) -> Trust {
        Trust::Authorities(vec![self.0.der().to_vec()])
    }

    /// A server for these names, which speaks one version and one protocol.
    fn server(&self, names: &[&str], version: &'static SupportedProtocolVersion) -> ServerConnection {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        server(certificate.der().clone(), &key, version)
    }
}

fn server(own: CertificateDer<'static>, key: &KeyPair, version: &'static SupportedProtocolVersion) -> ServerConnection {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    ServerConnection::new(Arc::new(config)).unwrap()
}

fn client(name: &str, trust: &Trust) -> Client {
    Client::new(name, trust, &[b"http/1.1"]).unwrap()
}

/// Let the server read everything, and answer.
fn serve(server: &mut ServerConnection, mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        let read = server.process_new_packets();
        while server.wants_write() {
            server.write_tls(&mut out).unwrap();
        }
        if read.is_err() {
            break;
        }
    }
    while server.wants_write() {
        server.write_tls(&mut out).unwrap();
    }
    out
}

/// Give a session bytes, so many at a time.
fn receive(session: &mut Session, bytes: &[u8], cut: usize) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        session.receive(piece, &mut plain, &mut out)?;
    }
    Ok((plain, out))
}

fn agree(client: &Client, server: &mut ServerConnection, cut: usize) -> Result<Session, TlsError> {
    let mut out = Vec::new();
    let mut session = Session::begin(client, &mut out)?;
    while !out.is_empty() {
        let answer = serve(server, &out);
        out = receive(&mut session, &answer, cut)?.1;
    }
    assert!(session.is_established() && !server.is_handshaking());
    Ok(session)
}

fn read_all(server: &mut ServerConnection) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = server.reader().read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    bytes
}

#[test]
fn bytes_go_both_ways_in_both_versions_however_they_are_cut() {
    let authority = Authority::new("One");
    for version in BOTH {
        for cut in [1, 7, 1000, usize::MAX] {
            let mut server = authority.server(&["site.test"], version);
            let mut session = agree(&client("site.test", &authority.trust()), &mut server, cut).unwrap();
            assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert_eq!(server.server_name(), Some("site.test"));

            let mut out = Vec::new();
            session.send(b"a question", &mut out).unwrap();
            serve(&mut server, &out);
            assert_eq!(read_all(&mut server), b"a question");

            server.writer().write_all(b"an answer").unwrap();
            let (plain, out) = receive(&mut session, &serve(&mut server, &[]), cut).unwrap();
            assert_eq!((plain, out), (b"an answer".to_vec(), Vec::new()));
            assert!(!session.is_within_record());
        }
    }
}

#[test]
fn what_was_agreed_on_is_told_in_the_standards_words() {
    let authority = Authority::new("One");
    let told = BOTH.map(|version| {
        let mut server = authority.server(&["site.test"], version);
        agree(&client("site.test", &authority.trust()), &mut server, 999).unwrap().agreed().unwrap()
    });
    assert_eq!(told.each_ref().map(|agreed| agreed.version), ["TLS 1.2", "TLS 1.3"]);
    assert!(told[0].cipher_suite.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{told:?}");
    assert!(told[1].cipher_suite.starts_with("TLS_AES_"), "{told:?}");
}

#[test]
fn many_records_go_both_ways_at_once() {
    let (authority, body) = (Authority::new("One"), vec![b'x'; 300_000]);
    for version in BOTH {
        let mut server = authority.server(&["site.test"], version);
        server.set_buffer_limit(None);
        let mut session = agree(&client("site.test", &authority.trust()), &mut server, usize::MAX).unwrap();
        let (mut out, mut got) = (Vec::new(), Vec::new());
        session.send(&body, &mut out).unwrap();
        for piece in out.chunks(10_000) {
            serve(&mut server, piece);
            got.extend(read_all(&mut server));
        }
        assert!(got == body);
        server.writer().write_all(&body).unwrap();
        let (plain, _) = receive(&mut session, &serve(&mut server, &[]), 5000).unwrap();
        assert!(plain == body);
    }
}

#[test]
fn each_side_hears_when_the_other_sends_no_more() {
    let authority = Authority::new("One");
    for version in BOTH {
        let mut server = authority.server(&["site.test"], version);
        let mut session = agree(&client("site.test", &authority.trust()), &mut server, usize::MAX).unwrap();
        server.writer().write_all(b"the last").unwrap();
        server.send_close_notify();
        let (plain, _) = receive(&mut session, &serve(&mut server, &[]), usize::MAX).unwrap();
        assert_eq!((plain.as_slice(), session.is_ended()), (&b"the last"[..], true));

        let mut out = Vec::new();
        session.close(&mut out);
        server.read_tls(&mut out.as_slice()).unwrap();
        assert!(server.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn a_record_that_has_come_in_part_is_known_to_have() {
    let authority = Authority::new("One");
    let mut server = authority.server(&["site.test"], &TLS13);
    let mut session = agree(&client("site.test", &authority.trust()), &mut server, usize::MAX).unwrap();
    server.writer().write_all(b"an answer").unwrap();
    let sealed = serve(&mut server, &[]);
    let (plain, _) = receive(&mut session, &sealed[..sealed.len() - 1], usize::MAX).unwrap();
    assert_eq!((plain.len(), session.is_within_record()), (0, true));
    // And something can be sent meanwhile.
    let mut out = Vec::new();
    session.send(b"more", &mut out).unwrap();
    serve(&mut server, &out);
    assert_eq!(read_all(&mut server), b"more");
    let (plain, _) = receive(&mut session, &sealed[sealed.len() - 1..], usize::MAX).unwrap();
    assert_eq!((plain.as_slice(), session.is_within_record()), (&b"an answer"[..], false));
}

#[test]
fn keys_may_change_under_way() {
    let authority = Authority::new("One");
    let mut server = authority.server(&["site.test"], &TLS13);
    let mut session = agree(&client("site.test", &authority.trust()), &mut server, usize::MAX).unwrap();
    server.refresh_traffic_keys().unwrap();
    server.writer().write_all(b"by the new keys").unwrap();
    let (plain, _) = receive(&mut session, &serve(&mut server, &[]), usize::MAX).unwrap();
    assert_eq!(plain, b"by the new keys");
}

fn refusal(client: &Client, mut server: ServerConnection) -> String {
    agree(client, &mut server, usize::MAX).map(drop).unwrap_err().to_string()
}

#[test]
fn a_certificate_that_is_not_trusted_says_what_can_be_done() {
    let (authority, other) = (Authority::new("One"), Authority::new("Another"));
    let text = refusal(&client("site.test", &other.trust()), authority.server(&["site.test"], &TLS13));
    assert!(text.contains("nobody that is trusted") && text.contains("--cacert FILE"), "{text}");
    let text = refusal(&client("elsewhere.test", &authority.trust()), authority.server(&["site.test"], &TLS13));
    assert!(text.contains("expected a certificate for elsewhere.test, got one for"), "{text}");
    assert!(text.contains("site.test"), "{text}");
    for (name, trust) in [("elsewhere.test", authority.trust()), ("site.test", other.trust())] {
        let mut server = authority.server(&["site.test"], &TLS12);
        assert!(agree(&client(name, &trust), &mut server, 50).is_err());
        agree(&client(name, &Trust::Anybody), &mut authority.server(&["site.test"], &TLS12), 50).unwrap();
        agree(&client(name, &Trust::Anybody), &mut authority.server(&["site.test"], &TLS13), 50).unwrap();
    }
}

#[test]
fn an_address_is_a_name_too() {
    let authority = Authority::new("One");
    for name in ["127.0.0.1", "::1"] {
        agree(&client(name, &authority.trust()), &mut authority.server(&[name], &TLS13), 99).unwrap();
    }
}

/// As `openssl req -x509` makes them: an authority that signs nobody but itself.
#[test]
fn a_certificate_that_was_given_itself_is_trusted_for_its_names_alone() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["site.test".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = params.self_signed(&key).unwrap().der().clone();
    let trust = Trust::Authorities(vec![own.to_vec()]);
    for version in BOTH {
        agree(&client("site.test", &trust), &mut server(own.clone(), &key, version), 500).unwrap();
    }
    let text = refusal(&client("elsewhere.test", &trust), server(own, &key, &TLS13));
    assert!(text.contains("for elsewhere.test"), "{text}");
}

#[test]
fn the_server_is_told_why_it_was_refused() {
    let (authority, other) = (Authority::new("One"), Authority::new("Another"));
    let mut server = authority.server(&["site.test"], &TLS13);
    let mut out = Vec::new();
    let mut session = Session::begin(&client("site.test", &other.trust()), &mut out).unwrap();
    let answer = serve(&mut server, &out);
    out.clear();
    session.receive(&answer, &mut Vec::new(), &mut out).unwrap_err();
    server.read_tls(&mut out.as_slice()).unwrap();
    let heard = server.process_new_packets().unwrap_err();
    assert!(matches!(heard, rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA)), "{heard:?}");
}

#[test]
fn a_server_that_speaks_another_protocol_refuses_and_is_quoted() {
    let authority = Authority::new("One");
    let client = Client::new("site.test", &authority.trust(), &[b"h7"]).unwrap();
    let mut server = authority.server(&["site.test"], &TLS13);
    let mut out = Vec::new();
    let mut session = Session::begin(&client, &mut out).unwrap();
    let answer = serve(&mut server, &out);
    let text = receive(&mut session, &answer, 3).unwrap_err().to_string();
    assert_eq!(text, "the server refused: alert NoApplicationProtocol");
}

#[test]
fn who_answers_without_tls_is_quoted() {
    let mut session = Session::begin(&client("site.test", &Authority::new("One").trust()), &mut Vec::new()).unwrap();
    let text = receive(&mut session, b"HTTP/1.1 400 Bad Request\r\n", usize::MAX).unwrap_err().to_string();
    assert_eq!(text, "expected TLS, got an answer that begins with \"HTTP/1.1 400 Bad\": is it a plain port?");
}

#[test]
fn names_and_authorities_that_are_none_are_refused() {
    let refused = |name, trust: &Trust| Client::new(name, trust, &[]).map(drop).unwrap_err().to_string();
    assert!(refused("no name", &Trust::Anybody).contains("got \"no name\""));
    let garbage = Trust::Authorities(vec![b"garbage".to_vec()]);
    assert!(refused("site.test", &garbage).contains("got 1 of which none can be read"));
}

#[test]
fn a_bit_that_was_turned_over_is_found() {
    let authority = Authority::new("One");
    for version in BOTH {
        let mut server = authority.server(&["site.test"], version);
        let mut session = agree(&client("site.test", &authority.trust()), &mut server, usize::MAX).unwrap();
        server.writer().write_all(b"an answer").unwrap();
        let mut sealed = serve(&mut server, &[]);
        *sealed.last_mut().unwrap() ^= 1;
        assert!(receive(&mut session, &sealed, usize::MAX).is_err());
    }
}

/// A header that promises 16 MiB, which would have to be kept until it is whole; and a record of more than any may have.
#[test]
fn what_would_have_to_be_kept_for_long_is_refused_by_its_header() {
    for bytes in [&[0x16, 3, 3, 0, 4, 2, 0xff, 0xff, 0xff][..], &[0x16, 3, 3, 0xff, 0xff]] {
        let mut session = Session::begin(&client("site.test", &Trust::Anybody), &mut Vec::new()).unwrap();
        assert!(receive(&mut session, bytes, usize::MAX).is_err(), "{bytes:?} was taken");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// And nobody is believed to have a session.
    #[test]
    fn whatever_is_said_ends_in_an_error_or_waits(
        noise in proptest::collection::vec(any::<u8>(), 1..2000), begins in 0x14u8..0x19, cut in 1usize..500
    ) {
        let mut session = Session::begin(&client("site.test", &Trust::Anybody), &mut Vec::new()).unwrap();
        let bytes = [&[begins, 3, 3][..], &noise].concat();
        if let Ok((plain, _)) = receive(&mut session, &bytes, cut) {
            prop_assert!(plain.is_empty() && !session.is_established());
        }
    }
}
