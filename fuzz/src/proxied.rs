//! What proxies say of their clients: a PROXY protocol header is read alike at every split, within its bounds, and a
//! list of forwarders names nobody who is not in it.

use penstock::protocol::http1::forwarded::TrustedPeers;
use penstock::protocol::proxy_protocol::{self, MAX_V1_BYTES, MAX_V2_BYTES};

use crate::input::Input;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first byte chooses: a header as it stands, one behind either version's start, or lists of forwarders.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => check_header(input.rest()),
        1 => check_header(&[b"PROXY ", input.rest()].concat()),
        2 => check_header(&[SIGNATURE, input.rest()].concat()),
        _ => check_forwarded(&mut input),
    }
}

fn check_header(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MAX_V2_BYTES + 100)];
    let whole = proxy_protocol::parse(bytes);
    for end in 0..bytes.len() {
        match proxy_protocol::parse(&bytes[..end]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "another verdict after {end} bytes"),
        }
    }
    match whole {
        Ok(Some(header)) => {
            assert!(header.bytes <= bytes.len());
            assert_eq!(proxy_protocol::parse(&bytes[..header.bytes]), whole, "what follows is no part of it");
            assert_eq!(proxy_protocol::parse(&bytes[..header.bytes - 1]), Ok(None), "its last byte was not waited for");
            let most = if bytes.starts_with(SIGNATURE) { MAX_V2_BYTES } else { MAX_V1_BYTES };
            assert!(header.bytes <= most, "{} bytes", header.bytes);
        }
        Ok(None) => assert!(bytes.len() < MAX_V2_BYTES, "{} bytes, and still no verdict", bytes.len()),
        Err(_) => {}
    }
}

fn check_forwarded(input: &mut Input<'_>) {
    let Ok(trusted) = String::from_utf8_lossy(input.piece()).parse::<TrustedPeers>() else { return };
    let mut headers = Vec::new();
    while !input.is_empty() {
        let name: &[u8] = if input.byte() % 2 == 0 { b"X-Forwarded-For" } else { b"x-forwarded-proto" };
        headers.push((name, input.piece()));
    }
    let Some(forwarded) = trusted.read_forwarded(headers.iter().copied()) else { return };
    assert!(forwarded.client.is_some() || forwarded.scheme.is_some());
    if let Some((host, _)) = forwarded.client {
        let is_named = |value: &[u8]| value.iter().map(|&byte| char::from(byte)).collect::<String>().contains(&*host);
        let mut lists = headers.iter().filter(|(name, _)| *name == b"X-Forwarded-For");
        assert!(!host.is_empty() && lists.any(|(_, value)| is_named(value)), "{host:?} stands in no list");
    }
}
