//! gzip of large answers, for clients that ask for it: from 128 KiB on and of gets and lists alone, as Kubernetes does
//! (APIResponseCompression). Called by the edge. It packs on the blocking pool, never on a worker of the HTTP server.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, TryStreamExt, stream};
use protocol::store::ReadError;
use tokio::runtime::Handle;

use crate::request::{ApiResponse, PartStream, ResponseBody};

/// What is smaller is not worth the processor's time (defaultGzipThresholdBytes).
const BYTES_MIN: usize = 128 * 1024;

/// Whether a client wants its answer packed. `accept_encoding` is the header's value.
pub fn is_wanted(method: &str, accept_encoding: &str) -> bool {
    let accepts = |entry: &str| {
        let mut parts = entry.split(';').map(str::trim);
        let names_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_refused = parts.any(|part| {
            let weight = part.strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
            weight == Some(0.0)
        });
        names_gzip && !is_refused
    };
    method == "GET" && accept_encoding.split(',').any(accepts)
}

/// Packs a large answer; leaves any other as it is.
pub async fn gzip(mut response: ApiResponse, runtime: &Handle) -> ApiResponse {
    let is_packed = response.headers.iter().any(|(name, _)| *name == "content-encoding");
    if response.code != 200 || is_packed {
        return response;
    }
    response.body = match response.body {
        ResponseBody::Full(body) if body.len() >= BYTES_MIN => {
            let plain = body.clone();
            match runtime.spawn_blocking(move || Packer::new().pack_all(&plain)).await {
                Ok(packed) => ResponseBody::Full(packed),
                Err(_) => {
                    return ApiResponse {
                        body: ResponseBody::Full(body),
                        ..response
                    };
                }
            }
        }
        ResponseBody::Parts { parts, read } => ResponseBody::Parts {
            parts: packed(parts, runtime.clone()),
            read,
        },
        other => {
            return ApiResponse {
                body: other,
                ..response
            };
        }
    };
    response.headers.push(("content-encoding", "gzip".to_owned()));
    response.headers.push(("vary", "Accept-Encoding".to_owned()));
    response
}

/// What packs one body. Writing into memory does not fail.
struct Packer(GzEncoder<Vec<u8>>);

impl Packer {
    fn new() -> Packer {
        Packer(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// What has come out after this part went in.
    fn pack(&mut self, part: &[u8]) -> Bytes {
        let _ = self.0.write_all(part);
        std::mem::take(self.0.get_mut()).into()
    }

    fn end(self) -> Bytes {
        self.0.finish().unwrap_or_default().into()
    }

    fn pack_all(mut self, body: &[u8]) -> Bytes {
        let _ = self.0.write_all(body);
        self.end()
    }
}

/// Packs parts as they come.
fn packed(parts: PartStream, runtime: Handle) -> PartStream {
    let cut_off = |_| ReadError::Unavailable {
        reason: "the answer could not be packed".to_owned(),
    };
    let steps = stream::try_unfold(Some((parts, Packer::new(), runtime)), move |going| async move {
        let Some((mut parts, mut packer, runtime)) = going else {
            return Ok(None);
        };
        let Some(part) = parts.try_next().await? else {
            return Ok(Some((packer.end(), None)));
        };
        let pack = runtime.spawn_blocking(move || (packer.pack(&part), packer));
        let (out, packer) = pack.await.map_err(cut_off)?;
        Ok(Some((out, Some((parts, packer, runtime)))))
    });
    // A part can vanish in the packer's window.
    Box::pin(steps.try_filter(|part| std::future::ready(!part.is_empty())).boxed())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    fn parts_of(bodies: Vec<Bytes>) -> ApiResponse {
        ApiResponse {
            body: ResponseBody::Parts {
                parts: Box::pin(stream::iter(bodies.into_iter().map(Ok))),
                read: Box::pin(std::future::ready(())),
            },
            ..ApiResponse::json(200, Bytes::new())
        }
    }

    #[test]
    fn it_is_wanted_of_gets_by_those_who_say_so() {
        let cases = [
            ("GET", "gzip", true),
            ("GET", "deflate, gzip;q=0.5", true),
            ("GET", "GZip", true),
            ("GET", "gzip;q=0", false),
            ("GET", "identity", false),
            ("GET", "", false),
            ("POST", "gzip", false),
        ];
        for (method, header, expected) in cases {
            assert_eq!(is_wanted(method, header), expected, "{method} {header}");
        }
    }

    #[tokio::test]
    async fn large_answers_are_packed_and_small_ones_are_not() {
        let runtime = Handle::current();
        for (length, is_packed) in [(BYTES_MIN - 1, false), (BYTES_MIN, true)] {
            let body = vec![b'a'; length];
            let answer = gzip(ApiResponse::json(200, body.clone()), &runtime).await;
            let named = answer.headers.contains(&("content-encoding", "gzip".to_owned()));
            let ResponseBody::Full(sent) = answer.body else {
                panic!("it was in one piece");
            };
            assert_eq!(named, is_packed);
            assert_eq!(if named { unpacked(&sent) } else { sent.to_vec() }, body);
        }
        let refusal = gzip(ApiResponse::json(404, vec![b'a'; BYTES_MIN]), &runtime).await;
        assert_eq!(refusal.headers, []);
    }

    #[tokio::test]
    async fn parts_are_packed_into_one_stream() {
        let bodies: Vec<Bytes> = (0..40_u8).map(|part| vec![part; 10_000].into()).collect();
        let answer = gzip(parts_of(bodies.clone()), &Handle::current()).await.whole().await;
        let ResponseBody::Full(sent) = answer.body else {
            panic!("it was gathered");
        };
        assert!(sent.len() < 10_000);
        assert_eq!(unpacked(&sent), bodies.concat());
    }
}
