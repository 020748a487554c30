//! The gateway's own HTTPS requests: to webhooks, to conversion webhooks and to aggregated APIs. It owns connections, which
//! are kept for the next request to the same place, and says why a request failed in the words of Go's client, which people
//! know from Kubernetes. It resolves no Service (`address` does) and never retries a request whose bytes were sent.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::trust::{Trust, TrustError};

/// How many idle connections to one place are kept.
const IDLE_MAX: usize = 16;

/// How long an idle connection is kept: less than the shortest time after which common servers close one.
const IDLE_AGE_MAX: Duration = Duration::from_secs(30);

/// Where a request goes, and how its server is known.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Addresses that lead there; the first that answers is used.
    pub addresses: Vec<SocketAddr>,
    /// Whom the server's certificate must name.
    pub server_name: String,
    /// Whose certificates are believed, and which is shown.
    pub trust: Arc<Trust>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The server's name is none that a certificate could have.
    #[error("{0:?} is not a host name that a certificate can be checked against")]
    ServerName(String),
    /// What is believed cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There is no way to it.
    #[error("dial tcp {address}: {what}")]
    Connect {
        /// The last address that was tried.
        address: String,
        /// What the kernel said.
        what: String,
    },
    /// The server is not who it should be, or does not speak TLS.
    #[error("{0}")]
    Tls(String),
    /// The connection ended before the answer.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// No answer came in time.
    #[error("context deadline exceeded")]
    Deadline,
    /// The answer is larger than is read.
    #[error("the response is longer than {0} bytes")]
    TooLarge(usize),
}

type Sender = SendRequest<Full<Bytes>>;

/// What tells connections apart.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    address: SocketAddr,
    server_name: String,
    trust: [u8; 32],
}

struct Idle {
    sender: Sender,
    since: Instant,
}

/// Sends requests, and keeps connections.
#[derive(Default)]
pub struct Https {
    idle: Mutex<HashMap<Place, Vec<Idle>>>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Https({} places)", self.idle.lock().len())
    }
}

/// An answer whose body is still to come. The connection belongs to it until the body was read.
pub struct Answer {
    /// Status and headers.
    pub head: http::response::Parts,
    /// The body.
    pub body: Incoming,
    place: Place,
    sender: Sender,
}

impl Https {
    /// Sends a request and waits for the head of its answer. The caller bounds the time.
    ///
    /// # Errors
    ///
    /// Why no answer came. A connection that was kept and that the server has closed meanwhile is no error: another is made.
    pub async fn send(&self, to: &Destination, request: http::Request<Full<Bytes>>) -> Result<Answer, HttpsError> {
        while let Some((place, mut sender)) = self.kept(to) {
            match sender.try_send_request(request.clone()).await {
                Ok(answer) => return Ok(Answer::new(answer, place, sender)),
                Err(mut failed) => {
                    // What was not sent at all can be sent again: the server closed the connection while it was idle.
                    if failed.take_message().is_none() {
                        return Err(HttpsError::Http(failed.into_error()));
                    }
                }
            }
        }
        let (address, stream) = connect(to).await?;
        let stream = encrypt(to, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an outward connection ended");
            }
        });
        let place = Place {
            address,
            server_name: to.server_name.clone(),
            trust: to.trust.digest,
        };
        let answer = sender.send_request(request).await?;
        Ok(Answer::new(answer, place, sender))
    }

    /// Sends a request that asks to speak another protocol, on a connection of its own. The caller bounds the time.
    ///
    /// # Errors
    ///
    /// Why no answer came.
    pub async fn upgrade(
        &self,
        to: &Destination,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, HttpsError> {
        let (_, stream) = connect(to).await?;
        let stream = encrypt(to, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an outward connection ended");
            }
        });
        Ok(sender.send_request(request).await?)
    }

    /// Sends a request and reads the whole answer, within a time and a number of bytes.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub async fn exchange(
        &self,
        to: &Destination,
        request: http::Request<Full<Bytes>>,
        timeout: Duration,
        bytes_max: usize,
    ) -> Result<(http::response::Parts, Bytes), HttpsError> {
        let exchange = async {
            let Answer {
                head,
                mut body,
                place,
                sender,
            } = self.send(to, request).await?;
            let mut read = BytesMut::new();
            while let Some(frame) = body.frame().await {
                if let Ok(part) = frame?.into_data() {
                    if read.len() + part.len() > bytes_max {
                        return Err(HttpsError::TooLarge(bytes_max));
                    }
                    read.extend_from_slice(&part);
                }
            }
            self.keep(place, sender);
            Ok((head, read.freeze()))
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(HttpsError::Deadline))
    }

    fn kept(&self, to: &Destination) -> Option<(Place, Sender)> {
        let mut idle = self.idle.lock();
        for address in &to.addresses {
            let place = Place {
                address: *address,
                server_name: to.server_name.clone(),
                trust: to.trust.digest,
            };
            let Some(kept) = idle.get_mut(&place) else { continue };
            while let Some(one) = kept.pop() {
                if one.since.elapsed() < IDLE_AGE_MAX && one.sender.is_ready() {
                    return Some((place, one.sender));
                }
            }
        }
        None
    }

    fn keep(&self, place: Place, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let since = Instant::now();
        let mut idle = self.idle.lock();
        // Places that are used no longer do not stay for ever.
        idle.retain(|_, kept| {
            kept.retain(|one| one.since.elapsed() < IDLE_AGE_MAX);
            !kept.is_empty()
        });
        let kept = idle.entry(place).or_default();
        if kept.len() < IDLE_MAX {
            kept.push(Idle { sender, since });
        }
    }
}

impl Answer {
    fn new(answer: http::Response<Incoming>, place: Place, sender: Sender) -> Answer {
        let (head, body) = answer.into_parts();
        Answer {
            head,
            body,
            place,
            sender,
        }
    }

    /// Status and headers, and the body as it comes. The connection ends with it.
    pub fn into_parts(self) -> (http::response::Parts, Incoming) {
        (self.head, self.body)
    }
}

async fn connect(to: &Destination) -> Result<(SocketAddr, TcpStream), HttpsError> {
    let mut last = HttpsError::Connect {
        address: to.server_name.clone(),
        what: "no address leads there".to_owned(),
    };
    for address in &to.addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Requests are written at once; a failure costs a delay and nothing else.
                let _ = stream.set_nodelay(true);
                return Ok((*address, stream));
            }
            Err(error) => {
                last = HttpsError::Connect {
                    address: address.to_string(),
                    what: dial_error(&error),
                };
            }
        }
    }
    Err(last)
}

async fn encrypt(to: &Destination, stream: TcpStream) -> Result<TlsStream<TcpStream>, HttpsError> {
    let name =
        ServerName::try_from(to.server_name.clone()).map_err(|_| HttpsError::ServerName(to.server_name.clone()))?;
    let connector = TlsConnector::from(to.trust.client_config()?);
    connector
        .connect(name, stream)
        .await
        .map_err(|error| HttpsError::Tls(tls_error(&error)))
}

/// As Go's dialer says it.
fn dial_error(error: &std::io::Error) -> String {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    match error.kind() {
        ConnectionRefused => "connect: connection refused".to_owned(),
        HostUnreachable => "connect: no route to host".to_owned(),
        NetworkUnreachable => "connect: network is unreachable".to_owned(),
        TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// As Go's TLS says it, for what operators meet; rustls' own words for the rest.
fn tls_error(error: &std::io::Error) -> String {
    use rustls::CertificateError;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match inner {
        // A signature that does not fit is that of another CA of the same name.
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "certificate has expired or is not yet valid".to_owned(),
        Some(rustls::Error::InvalidCertificate(other)) => other.to_string(),
        Some(other) => return format!("tls: {other}"),
        None => return error.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}
