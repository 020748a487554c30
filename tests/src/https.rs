//! Connections to a node's API on which a test chooses every byte: HTTP/1.1 over TLS with the credential of a kubeconfig, kept
//! alive. Tests of hostile input and the load benchmark call it: an HTTP library would mend what is to be sent broken, and
//! would cost a load generator more than the server. It must not hide how an answer was framed.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use config::kubeconfig::{Access, Kubeconfig};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The most headers of an answer.
const HEADERS_MAX: usize = 32;

/// What is read from the socket at once.
const READ_BYTES: usize = 32 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The kubeconfig has no credential that can be used.
    #[error("the kubeconfig cannot be used: {0}")]
    Credential(String),
    /// The connection failed.
    #[error("the connection: {0}")]
    Connection(#[from] io::Error),
    /// The server closed the connection before a whole answer.
    #[error("the server closed the connection after {bytes} bytes of an answer")]
    Closed {
        /// What had come.
        bytes: usize,
    },
    /// What came is no answer of HTTP/1.1.
    #[error("not an HTTP answer: {0}")]
    Malformed(String),
}

/// Where an API is and by what it is known.
#[derive(Clone)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    token: Option<String>,
}

/// How long an answer's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status code.
    pub code: u16,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// Whether the server closes the connection after this answer.
    pub closes: bool,
    framing: Framing,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Bytes,
}

impl Endpoint {
    /// Reads a kubeconfig. HTTP/1.1 is spoken: no other protocol is offered.
    pub fn load(kubeconfig: &Path) -> Result<Endpoint, HttpsError> {
        let credential = |reason: String| HttpsError::Credential(reason);
        let loaded = Kubeconfig::load(kubeconfig).map_err(|error| credential(error.to_string()))?;
        let access = loaded
            .access(kubeconfig, None)
            .map_err(|error| credential(error.to_string()))?;
        Endpoint::of(&access)
    }

    /// Of an access.
    pub fn of(access: &Access) -> Result<Endpoint, HttpsError> {
        let credential = |reason: String| HttpsError::Credential(reason);
        let address: SocketAddr = access
            .server
            .strip_prefix("https://")
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| credential(format!("{} is no address with a port", access.server)))?;
        // Another part of the process may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(access.ca_pem.as_deref().unwrap_or_default()) {
            let certificate = certificate.map_err(|error| credential(error.to_string()))?;
            roots.add(certificate).map_err(|error| credential(error.to_string()))?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let tls = match &access.client_pem {
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| credential(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| credential(error.to_string()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| credential(error.to_string()))?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Endpoint {
            address,
            tls: Arc::new(tls),
            name: ServerName::IpAddress(address.ip().into()),
            token: access.token.clone(),
        })
    }

    pub(crate) fn tls(&self) -> &ClientConfig {
        &self.tls
    }

    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// A connection on which TLS is spoken.
    pub async fn connect(&self) -> Result<Connection, HttpsError> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(self.name.clone(), socket).await?;
        Ok(Connection {
            stream,
            buffer: BytesMut::with_capacity(READ_BYTES),
        })
    }

    /// The bytes of a request: its head, with `Host`, the credential and the length of the body, and the body.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if let Some(token) = &self.token {
            text.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    /// Asks one thing on a connection of its own.
    pub async fn once(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, HttpsError> {
        let mut connection = self.connect().await?;
        connection.ask(&self.request(method, path, headers, body)).await
    }
}

/// A connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
}

impl Connection {
    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), HttpsError> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer, HttpsError> {
        self.send(request).await?;
        self.answer().await
    }

    /// The next whole answer.
    pub async fn answer(&mut self) -> Result<Answer, HttpsError> {
        let head = self.head().await?;
        let body = match head.framing {
            Framing::Length(length) => self.take(length).await?,
            Framing::Chunked => {
                let mut body = BytesMut::new();
                while let Some(chunk) = self.chunk().await? {
                    body.extend_from_slice(&chunk);
                }
                body.freeze()
            }
        };
        Ok(Answer { head, body })
    }

    /// The head of the next answer; its body follows by `answer`'s rules, or in chunks.
    pub async fn head(&mut self) -> Result<Head, HttpsError> {
        loop {
            if let Some((length, head)) = parse_head(&self.buffer)? {
                self.buffer.advance(length);
                return Ok(head);
            }
            self.fill().await?;
        }
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpsError> {
        loop {
            let malformed = |_| HttpsError::Malformed("a chunk's size is no number".to_owned());
            match httparse::parse_chunk_size(&self.buffer).map_err(malformed)? {
                httparse::Status::Complete((at, length)) => {
                    self.buffer.advance(at);
                    let chunk = self.take(length as usize).await?;
                    self.take(2).await?;
                    return Ok((length > 0).then_some(chunk));
                }
                httparse::Status::Partial => self.fill().await?,
            }
        }
    }

    /// Whether the server has closed the connection, or sends something that was not asked for.
    pub async fn closed(&mut self) -> Result<(), HttpsError> {
        match self.fill().await {
            Err(HttpsError::Closed { .. } | HttpsError::Connection(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(HttpsError::Malformed(
                String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(200)]).into_owned(),
            )),
        }
    }

    /// The next bytes, so many of them: of a body, or of the protocol that was switched to.
    pub async fn take(&mut self, length: usize) -> Result<Bytes, HttpsError> {
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn fill(&mut self) -> Result<(), HttpsError> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
            self.buffer.reserve(READ_BYTES);
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(HttpsError::Closed {
                bytes: self.buffer.len(),
            }),
            _ => Ok(()),
        }
    }
}

/// The head at the beginning of what came, and its length; `None` while it is not whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Head)>, HttpsError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(HttpsError::Malformed(error.to_string())),
    };
    let value = |name: &str| {
        let header = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let framing = match (value("transfer-encoding"), value("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
        (_, Some(length)) => Framing::Length(
            length
                .parse()
                .map_err(|_| HttpsError::Malformed(format!("the length {length:?}")))?,
        ),
        _ => Framing::Length(0),
    };
    let head = Head {
        code: response.code.unwrap_or_default(),
        retry_after: value("retry-after").and_then(|seconds| seconds.parse().ok()),
        closes: value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        framing,
    };
    Ok(Some((length, head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let text =
            b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 12\r\nretry-after: 3\r\nConnection: close\r\n\r\nrest";
        assert!(parse_head(&text[..40]).unwrap().is_none());
        let (length, head) = parse_head(text).unwrap().unwrap();
        assert_eq!(
            (&text[length..], head.code, head.retry_after, head.closes),
            (&b"rest"[..], 429, Some(3), true)
        );
        assert_eq!(head.framing, Framing::Length(12));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(parse_head(chunked).unwrap().unwrap().1.framing, Framing::Chunked);
        assert!(parse_head(b"SSH-2.0-x\r\n\r\n").is_err());
    }
}
