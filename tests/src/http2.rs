//! A connection to a node's API over HTTP/2, shared by clients that ask at the same time, as the goroutines of a program that
//! uses client-go share one. The load benchmark calls it. It must not retry.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::https::{Endpoint, HttpsError};

/// What the server may send before it is told that some was read: enough that no answer waits for that.
const WINDOW_BYTES: u32 = 8 << 20;

/// A share of a connection.
#[derive(Clone)]
pub struct Http2 {
    sender: SendRequest<Bytes>,
    authority: String,
    bearer: Option<String>,
}

impl From<h2::Error> for HttpsError {
    fn from(error: h2::Error) -> HttpsError {
        HttpsError::Malformed(format!("HTTP/2: {error}"))
    }
}

impl Http2 {
    /// Connects; the connection is driven by a task of its own until all its shares are gone.
    pub async fn connect(endpoint: &Endpoint) -> Result<Http2, HttpsError> {
        let socket = TcpStream::connect(endpoint.address).await?;
        socket.set_nodelay(true)?;
        let mut tls = endpoint.tls().clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(tls));
        let stream = connector.connect(endpoint.name().clone(), socket).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(HttpsError::Malformed("the server does not speak HTTP/2".to_owned()));
        }
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(stream)
            .await?;
        // Its end is seen by whoever asks next.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Http2 {
            sender,
            authority: endpoint.address.to_string(),
            bearer: endpoint.token().map(|token| format!("Bearer {token}")),
        })
    }

    /// Asks one thing: the answer's status and body.
    pub async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<(u16, Bytes), HttpsError> {
        let malformed = |error: http::Error| HttpsError::Malformed(error.to_string());
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(ACCEPT, "application/json");
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let is_last = body.is_empty();
        if !is_last {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(()).map_err(malformed)?;
        let mut sender = self.sender.clone();
        poll_fn(|context| sender.poll_ready(context)).await?;
        let (answer, mut sending) = sender.send_request(request, is_last)?;
        if !is_last {
            sending.send_data(body, true)?;
        }
        let (head, mut parts) = answer.await?.into_parts();
        let mut whole = BytesMut::new();
        while let Some(part) = parts.data().await {
            let part = part?;
            parts.flow_control().release_capacity(part.len())?;
            whole.extend_from_slice(&part);
        }
        Ok((head.status.as_u16(), whole.freeze()))
    }
}
