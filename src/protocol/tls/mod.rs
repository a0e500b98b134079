//! The client's side of TLS, 1.2 and 1.3: bytes of the network in, plain bytes out, and the other way. It knows no socket;
//! rustls, whose unbuffered interface this is, asks the clock whether a certificate is still valid, and for randomness.
//!
//! A session that waits owns no buffer but a record that has come in part.

mod trust;

use std::fmt;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, ProtocolVersion};

pub use trust::Trust;

/// Why a session cannot be, or not go on: what came, and what can be done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// What sessions with one server have in common: its name, whom to trust, what will be spoken.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    /// `name` is a DNS name or an address, and what the certificate has to be for. With `alpn` a server that speaks only
    /// something else refuses.
    pub fn new(name: &str, trust: &Trust, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let expected = |_| TlsError(format!("expected a DNS name or an address of the server, got {name:?}"));
        let name = ServerName::try_from(name.to_owned()).map_err(expected)?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(trust.verifier(provider)?)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        // Each session pays for its handshake; and tickets would be kept for every one of them.
        config.resumption = Resumption::disabled();
        Ok(Client { config: Arc::new(config), name })
    }
}

/// What client and server have agreed on, in the standards' words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreed {
    pub version: &'static str,
    pub cipher_suite: String,
}

pub struct Session {
    connection: UnbufferedClientConnection,
    /// A record that has come in part.
    incoming: Vec<u8>,
    has_begun: bool,
    is_ended: bool,
    /// Why there is nothing more to be had of it.
    failure: Option<TlsError>,
}

impl Session {
    /// A session whose first words are in `out`.
    pub fn begin(client: &Client, out: &mut Vec<u8>) -> Result<Self, TlsError> {
        let made = UnbufferedClientConnection::new(Arc::clone(&client.config), client.name.clone());
        let connection = made.map_err(|error| TlsError(error.to_string()))?;
        let mut session =
            Session { connection, incoming: Vec::new(), has_begun: false, is_ended: false, failure: None };
        session.drive(&[], &mut Vec::new(), out)?;
        Ok(session)
    }

    /// Take bytes of the network. What they say is appended to `plain`, and what must be answered to `out`; both count
    /// beside an error, too, which is the session's end.
    pub fn receive(&mut self, bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if !std::mem::replace(&mut self.has_begun, true) && !is_tls(bytes) {
            let begins = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned();
            return Err(TlsError(format!(
                "expected TLS, got an answer that begins with {begins:?}: is it a plain port?"
            )));
        }
        self.incoming.extend_from_slice(bytes);
        let outcome = self.drive(&[], plain, out);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        outcome
    }

    /// Seal `bytes` into `out`. The handshake is over, and there is at least one.
    pub fn send(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        debug_assert!(self.is_established() && !bytes.is_empty());
        // Everything that had come was read when it came.
        self.drive(bytes, &mut Vec::new(), out)
    }

    /// Say that no more will be sent.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.failure.is_some() {
            return;
        }
        let state = self.connection.process_tls_records(&mut self.incoming).state;
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let _ = fill(out, 64, |room| traffic.queue_close_notify(room));
        }
    }

    pub fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// The peer has said that it will send no more.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// A record has come in part.
    pub fn is_within_record(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// None until the handshake has come so far.
    pub fn agreed(&self) -> Option<Agreed> {
        let version = match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLS 1.2",
            ProtocolVersion::TLSv1_3 => "TLS 1.3",
            _ => return None,
        };
        let suite = self.connection.negotiated_cipher_suite()?.suite();
        Some(Agreed { version, cipher_suite: suite.as_str().unwrap_or("unknown").replace("TLS13_", "TLS_") })
    }

    /// Go on until bytes of the network are wanted, sealing `bytes` once that may be done.
    fn drive(&mut self, bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let (mut taken, mut goes_on) = (0, self.failure.is_none());
        while goes_on {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut self.incoming[taken..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    // No room at first: the refusal says how much it takes.
                    let encoded = fill(out, 0, |room| {
                        data.encode(room).map_err(|error| match error {
                            EncodeError::InsufficientSize(size) => size.into(),
                            EncodeError::AlreadyEncoded => unreachable!("it is encoded once"),
                        })
                    });
                    debug_assert!(encoded.is_ok());
                    goes_on = self.failure.is_none() || self.connection.wants_write();
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_ended = true,
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    goes_on = false;
                    self.failure = seal(traffic, bytes, out).err();
                }
                Ok(_) => goes_on = false,
                // It goes on for the alert that tells the peer, and no further: what has failed is not to be asked again.
                Err(error) => {
                    self.failure = Some(explained(&error));
                    goes_on = self.connection.wants_write();
                }
            }
            taken += discard;
        }
        self.incoming.drain(..taken);
        self.failure.clone().map_or(Ok(()), Err)
    }
}

fn seal(mut traffic: WriteTraffic<'_, ClientConnectionData>, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
    /// What a record holds at most, and more than what one needs beside it.
    const RECORD_BYTES: usize = 16_384;
    const BESIDE_BYTES: usize = 64;
    if bytes.is_empty() {
        return Ok(());
    }
    let room = bytes.len() + (bytes.len() / RECORD_BYTES + 2) * BESIDE_BYTES;
    fill(out, room, |room| traffic.encrypt(bytes, room)).map_err(|error| TlsError(error.to_string()))
}

/// Let `write` append to `out`: with so much room, or with as much as it then asks for.
fn fill(
    out: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), EncryptError> {
    let before = out.len();
    out.resize(before + room, 0);
    let mut written = write(&mut out[before..]);
    if let Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) = written {
        out.resize(before + required_size, 0);
        written = write(&mut out[before..]);
    }
    out.truncate(before + written.as_ref().map_or(0, |written| *written));
    written.map(drop)
}

/// Whether this may be the beginning of a record: an alert, or a handshake's message.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes.first(), None | Some(0x15 | 0x16))
}

fn explained(error: &rustls::Error) -> TlsError {
    use rustls::CertificateError::{ExpiredContext, NotValidForNameContext, NotValidYetContext, UnknownIssuer};
    TlsError(match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "nobody that is trusted has signed the server's certificate: name who has with --cacert FILE, or take any \
             with --insecure"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidForNameContext { expected, presented }) => format!(
            "expected a certificate for {}, got one for {}: ask by that name, or take any with --insecure",
            expected.to_str(),
            if presented.is_empty() { "nobody".to_owned() } else { presented.join(", ") },
        ),
        rustls::Error::InvalidCertificate(ExpiredContext { .. }) => {
            "the server's certificate has expired; --insecure takes it all the same".to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet: is this machine's clock right?".to_owned()
        }
        rustls::Error::InvalidCertificate(other) => {
            format!("the server's certificate is wrong ({other}); --insecure takes it all the same")
        }
        rustls::Error::AlertReceived(alert) => format!("the server refused: alert {alert:?}"),
        other => other.to_string(),
    })
}
