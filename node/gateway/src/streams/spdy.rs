//! SPDY/3.1 as far as port-forward needs it, the server's side: frames out of bytes, bytes out of frames, header blocks. Pure.
//! kubectl sends this through a WebSocket (KEP-4006), its peer being the library moby/spdystream, which has no flow control:
//! WINDOW_UPDATE and SETTINGS say nothing here.
//!
//! Source: the draft "SPDY Protocol - Draft 3.1". Lengths are checked before anything is allocated, and header blocks may
//! not unpack to more than a bound.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The version in control frames.
const VERSION: u16 = 3;
/// The longest frame that is accepted: the peer copies through buffers of 32 KiB.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The most that a header block may unpack to: what is said of a stream takes a hundred bytes.
const HEADERS_BYTES_MAX: usize = 64 << 10;
/// Bytes before a frame's content.
const HEAD_BYTES: usize = 8;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const FLAG_FIN: u8 = 1;

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// What was asked for makes no sense.
    Protocol = 1,
    /// There are too many.
    Refused = 3,
}

/// Names and values.
pub type Headers = Vec<(String, String)>;

/// A frame from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    Open {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// Whether the client sends nothing on it.
        fin: bool,
    },
    /// Content of a stream.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Whether these are the last.
        fin: bool,
    },
    /// The client gives a stream up.
    Reset {
        /// Its number.
        stream: u32,
    },
    /// The client wants this number back.
    Ping {
        /// The number.
        id: u32,
    },
}

/// A frame for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A stream is accepted.
    Accept {
        /// Its number.
        stream: u32,
    },
    /// Content of a stream.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Whether these are the last.
        fin: bool,
    },
    /// A stream is refused.
    Reset {
        /// Its number.
        stream: u32,
        /// Why.
        reason: ResetReason,
    },
    /// The number that the client wanted back.
    Ping {
        /// The number.
        id: u32,
    },
}

/// Why bytes are not SPDY.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// Another version.
    #[error("SPDY of version {0} is spoken; only version {VERSION} is understood")]
    Version(u16),
    /// A frame is too long.
    #[error("a frame of {0} bytes is longer than the {FRAME_BYTES_MAX} that are allowed")]
    TooLong(usize),
    /// A frame is too short for its kind.
    #[error("a frame of kind {0} is too short")]
    TooShort(u16),
    /// A header block does not unpack, or is no header block.
    #[error("a header block cannot be read: {0}")]
    Headers(&'static str),
}

/// Takes frames out of the bytes of a connection.
pub struct Decoder {
    buffer: BytesMut,
    headers: HeaderDecoder,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// For a new connection.
    pub fn new() -> Decoder {
        Decoder {
            buffer: BytesMut::new(),
            headers: HeaderDecoder::new(),
        }
    }

    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame that says something here.
    ///
    /// # Errors
    ///
    /// The bytes are not SPDY/3; nothing more can be read of this connection.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            let Some(&[a, b, c, d, flags, e, f, g]) = self.buffer.first_chunk::<HEAD_BYTES>() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes([0, e, f, g]) as usize;
            if length > FRAME_BYTES_MAX {
                return Err(SpdyError::TooLong(length));
            }
            if self.buffer.len() < HEAD_BYTES + length {
                self.buffer.reserve(HEAD_BYTES + length);
                return Ok(None);
            }
            self.buffer.advance(HEAD_BYTES);
            let content = self.buffer.split_to(length).freeze();
            let fin = flags & FLAG_FIN != 0;
            if a & 0x80 == 0 {
                let stream = u32::from_be_bytes([a, b, c, d]);
                return Ok(Some(Frame::Data {
                    stream,
                    bytes: content,
                    fin,
                }));
            }
            let version = u16::from_be_bytes([a & 0x7f, b]);
            if version != VERSION {
                return Err(SpdyError::Version(version));
            }
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), fin, content)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, mut content: Bytes) -> Result<Option<Frame>, SpdyError> {
        let number = |content: &mut Bytes| {
            let number = content.try_get_u32().map_err(|_| SpdyError::TooShort(kind))?;
            Ok(number & 0x7fff_ffff)
        };
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut content)?;
                number(&mut content)?; // the stream with which it goes: none here
                content.try_get_u16().map_err(|_| SpdyError::TooShort(kind))?; // priority
                let headers = self.headers.decode(&content)?;
                Some(Frame::Open { stream, headers, fin })
            }
            RST_STREAM => Some(Frame::Reset {
                stream: number(&mut content)?,
            }),
            PING => Some(Frame::Ping {
                id: content.try_get_u32().map_err(|_| SpdyError::TooShort(kind))?,
            }),
            // Every header block changes what the next one is packed with, so it is read even if nobody wants it.
            SYN_REPLY | 8 => {
                number(&mut content)?;
                self.headers.decode(&content)?;
                None
            }
            _ => None,
        })
    }
}

/// Makes the bytes of a connection out of frames.
pub struct Encoder {
    headers: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// For a new connection.
    pub fn new() -> Encoder {
        Encoder {
            headers: Compress::new(Compression::fast(), true),
        }
    }

    /// The bytes of one frame. Data is to be shorter than a frame may be.
    pub fn encode(&mut self, reply: &Reply) -> Bytes {
        match reply {
            Reply::Accept { stream } => {
                let mut content = stream.to_be_bytes().to_vec();
                // No headers. The dictionary may be left out on this side: a zlib stream says whether it needs one.
                self.pack(&[0; 4], &mut content);
                control(SYN_REPLY, &content)
            }
            Reply::Data { stream, bytes, fin } => {
                let mut frame = head(stream & 0x7fff_ffff, if *fin { FLAG_FIN } else { 0 }, bytes.len());
                frame.extend_from_slice(bytes);
                frame.freeze()
            }
            Reply::Reset { stream, reason } => {
                let mut content = stream.to_be_bytes().to_vec();
                content.extend_from_slice(&(*reason as u32).to_be_bytes());
                control(RST_STREAM, &content)
            }
            Reply::Ping { id } => control(PING, &id.to_be_bytes()),
        }
    }

    fn pack(&mut self, block: &[u8], packed: &mut Vec<u8>) {
        let mut rest = block;
        loop {
            packed.reserve(64);
            let (taken, made) = (self.headers.total_in(), packed.len());
            // Fails for a stream that was finished alone, which this one never is.
            let _ = self.headers.compress_vec(rest, packed, FlushCompress::Sync);
            rest = &rest[(self.headers.total_in() - taken) as usize..];
            if rest.is_empty() && packed.len() < packed.capacity() || packed.len() == made {
                return;
            }
        }
    }
}

fn head(first: u32, flags: u8, length: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
    frame.put_u32(first);
    frame.put_u8(flags);
    frame.put_uint(length as u64, 3);
    frame
}

fn control(kind: u16, content: &[u8]) -> Bytes {
    let mut frame = head(
        0x8000_0000 | u32::from(VERSION) << 16 | u32::from(kind),
        0,
        content.len(),
    );
    frame.extend_from_slice(content);
    frame.freeze()
}

/// Unpacks header blocks: one zlib stream for the whole connection, primed with a dictionary. As not every zlib can be given
/// one, the dictionary goes through the decompressor as a stored block of its own, which leaves the same window behind.
struct HeaderDecoder {
    inflate: Decompress,
    /// Whether the two bytes of a zlib header, and the four that name a dictionary, were read.
    has_begun: bool,
}

/// The part of a zlib header that says that a dictionary is needed, and which one SPDY/3 has (its Adler-32).
const FLAG_DICTIONARY: u8 = 0x20;
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

impl HeaderDecoder {
    fn new() -> HeaderDecoder {
        HeaderDecoder {
            inflate: Decompress::new(false),
            has_begun: false,
        }
    }

    fn decode(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let packed = if self.has_begun { packed } else { self.begin(packed)? };
        let block = self.unpack(packed, HEADERS_BYTES_MAX)?;
        read_block(&block)
    }

    fn begin<'a>(&mut self, packed: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        let (&[_, flags], mut rest) = packed
            .split_first_chunk()
            .ok_or(SpdyError::Headers("it is too short"))?;
        if flags & FLAG_DICTIONARY != 0 {
            let (id, after) = rest.split_first_chunk().ok_or(SpdyError::Headers("it is too short"))?;
            if *id != DICTIONARY_ID {
                return Err(SpdyError::Headers("it is packed with another dictionary"));
            }
            rest = after;
            let dictionary = dictionary();
            let length = (dictionary.len() as u16).to_le_bytes();
            let complement = (!(dictionary.len() as u16)).to_le_bytes();
            let stored = [&[0][..], &length, &complement, &dictionary].concat();
            self.unpack(&stored, dictionary.len() + 1)?;
        }
        self.has_begun = true;
        Ok(rest)
    }

    fn unpack(&mut self, mut packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, SpdyError> {
        let mut block = Vec::new();
        loop {
            block.reserve(1024);
            let (taken, made) = (self.inflate.total_in(), block.len());
            self.inflate
                .decompress_vec(packed, &mut block, FlushDecompress::Sync)
                .map_err(|_| SpdyError::Headers("it does not unpack"))?;
            packed = &packed[(self.inflate.total_in() - taken) as usize..];
            if block.len() > bytes_max {
                return Err(SpdyError::Headers("it unpacks to too much"));
            }
            let has_moved = self.inflate.total_in() != taken || block.len() != made;
            match (packed.is_empty(), has_moved) {
                (_, true) if block.len() == block.capacity() || !packed.is_empty() => {}
                (true, _) => return Ok(block),
                (false, _) => return Err(SpdyError::Headers("it ends before its bytes do")),
            }
        }
    }
}

/// A count, then so many names and values, each with its length.
fn read_block(mut block: &[u8]) -> Result<Headers, SpdyError> {
    let short = || SpdyError::Headers("it is cut off");
    let count = block.try_get_u32().map_err(|_| short())?;
    let mut text = || {
        let length = block.try_get_u32().map_err(|_| short())? as usize;
        let (text, rest) = block.split_at_checked(length).ok_or_else(short)?;
        block = rest;
        Ok::<String, SpdyError>(String::from_utf8_lossy(text).into_owned())
    };
    // Each takes eight bytes at least, so that a false count ends with the block.
    let mut headers = Headers::new();
    for _ in 0..count {
        headers.push((text()?, text()?));
    }
    Ok(headers)
}

/// A header's value.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// The dictionary of SPDY/3 header blocks: words, each with its length before it, then a text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
                         accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|\
                         content-language|content-length|content-location|content-md5|content-range|content-type|date|\
                         etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|\
                         if-unmodified-since|last-modified|location|max-forwards|pragma|proxy-authenticate|\
                         proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
                         user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|\
                         public|set-cookie|keep-alive|origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
                        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request\
                        401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented\
                        503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, \
                        Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
                        application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
                        sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split('|') {
        dictionary.extend_from_slice(&(word.len() as u32).to_be_bytes());
        dictionary.extend_from_slice(word.as_bytes());
    }
    dictionary.extend_from_slice(TEXT.as_bytes());
    dictionary
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn open(stream: u32, packed: &[u8]) -> Vec<u8> {
        let content = [&stream.to_be_bytes()[..], &[0; 6], packed].concat();
        control(SYN_STREAM, &content).to_vec()
    }

    fn headers(kind: &str) -> Headers {
        [("streamtype", kind), ("port", "8080"), ("requestid", "0")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// Two header blocks as zlib packs them with the dictionary (made with Python's zlib, `zdict`).
    const ERROR: &str =
        "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff";
    const DATA: &str = "c2aa19540e2512d60b000000ffff";

    #[test]
    fn the_dictionary_is_the_one_that_peers_have() {
        let (mut low, mut high) = (1u32, 0u32);
        for byte in dictionary() {
            low = (low + u32::from(byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!((high << 16 | low).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn streams_open_wherever_the_bytes_are_cut() {
        let sent = [open(1, &bytes(ERROR)), open(3, &bytes(DATA))].concat();
        for cut in 0..sent.len() {
            let mut decoder = Decoder::new();
            let mut frames = Vec::new();
            for part in [&sent[..cut], &sent[cut..]] {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            let expected = [(1, "error"), (3, "data")].map(|(stream, kind)| Frame::Open {
                stream,
                headers: headers(kind),
                fin: false,
            });
            assert_eq!(frames, expected, "cut at {cut}");
        }
    }

    #[test]
    fn data_resets_and_pings_are_told_apart_and_the_rest_is_passed_over() {
        let mut decoder = Decoder::new();
        decoder.push(&control(4, &[0; 4])); // SETTINGS
        decoder.push(&control(9, &[0; 8])); // WINDOW_UPDATE
        decoder.push(&control(PING, &7u32.to_be_bytes()));
        decoder.push(&control(RST_STREAM, &[0, 0, 0, 5, 0, 0, 0, 5]));
        let mut data = head(5, FLAG_FIN, 2);
        data.extend_from_slice(b"hi");
        decoder.push(&data);
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Ping { id: 7 })));
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Reset { stream: 5 })));
        let last = Frame::Data {
            stream: 5,
            bytes: Bytes::from_static(b"hi"),
            fin: true,
        };
        assert_eq!(decoder.next_frame(), Ok(Some(last)));
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn replies_have_the_bytes_of_the_draft() {
        let mut encoder = Encoder::new();
        let mut inflate = Decompress::new(true);
        for stream in [1u32, 3] {
            let accept = encoder.encode(&Reply::Accept { stream });
            assert_eq!(accept[..8], [0x80, 3, 0, 2, 0, 0, 0, accept.len() as u8 - 8]);
            assert_eq!(accept[8..12], stream.to_be_bytes());
            let mut block = Vec::with_capacity(64);
            inflate
                .decompress_vec(&accept[12..], &mut block, FlushDecompress::Sync)
                .unwrap();
            assert_eq!(block, [0; 4]);
        }
        let data = Reply::Data {
            stream: 3,
            bytes: Bytes::from_static(b"ab"),
            fin: true,
        };
        assert_eq!(encoder.encode(&data).as_ref(), [0, 0, 0, 3, 1, 0, 0, 2, b'a', b'b']);
        let reset = Reply::Reset {
            stream: 5,
            reason: ResetReason::Refused,
        };
        assert_eq!(
            encoder.encode(&reset).as_ref(),
            [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3]
        );
        assert_eq!(
            encoder.encode(&Reply::Ping { id: 9 }).as_ref(),
            [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]
        );
    }

    #[test]
    fn what_is_not_spdy_is_refused() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::new();
            decoder.push(bytes);
            decoder.next_frame().unwrap_err()
        };
        assert_eq!(refused(&[0x80, 2, 0, 1, 0, 0, 0, 0]), SpdyError::Version(2));
        assert_eq!(refused(&[0; 8].map(|_| 0x7f)), SpdyError::TooLong(0x7f_7f7f));
        assert_eq!(refused(&control(PING, &[0])), SpdyError::TooShort(PING));
        assert!(matches!(refused(&open(1, &[1, 2, 3])), SpdyError::Headers(_)));
        // A block that unpacks to a megabyte of zeroes.
        let mut encoder = Encoder::new();
        let mut packed = Vec::new();
        encoder.pack(&vec![0; 1 << 20], &mut packed);
        assert_eq!(refused(&open(1, &packed)), SpdyError::Headers("it unpacks to too much"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..8)) {
            let mut decoder = Decoder::new();
            for part in parts {
                decoder.push(&part);
                while let Ok(Some(_)) = decoder.next_frame() {}
            }
        }

        #[test]
        fn arbitrary_header_blocks_never_panic(packed in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new();
            decoder.push(&open(1, &bytes(ERROR)));
            decoder.push(&open(3, &packed));
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
