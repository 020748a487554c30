//! One client that is attached to a container's own streams: what it gave and the container has not taken yet, what the
//! container wrote and it has not taken yet. The container owns it; the event loop tells which descriptors are ready.
//!
//! Bounded: input is read only when the last part is through, and while a client owes a stream, that stream is not read.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use super::child::set_nonblocking;
use super::log_writer::OutputStream;
use crate::container::LaunchFailure;

/// How much input is taken from a client at once.
const INPUT_BYTES: usize = 16 << 10;

/// A client.
pub(super) struct Attachment {
    /// Its connection, which no other session has.
    pub connection: u64,
    /// Whether it gives, or gave, input.
    pub gave_input: bool,
    input: Option<fs::File>,
    unfed: Vec<u8>,
    outputs: [Option<fs::File>; 2],
    untaken: [Vec<u8>; 2],
}

impl Attachment {
    /// From the three descriptors of a request: the parent's ends of input, output and error.
    pub(super) fn new(connection: u64, gives_input: bool, descriptors: [OwnedFd; 3]) -> Result<Self, LaunchFailure> {
        for descriptor in &descriptors {
            set_nonblocking(descriptor)?;
        }
        let [input, stdout, stderr] = descriptors;
        Ok(Self {
            connection,
            gave_input: gives_input,
            input: gives_input.then(|| input.into()),
            unfed: Vec::new(),
            outputs: [Some(stdout.into()), Some(stderr.into())],
            untaken: Default::default(),
        })
    }

    /// What the container wrote.
    pub(super) fn push(&mut self, stream: OutputStream, bytes: &[u8]) {
        if self.outputs[stream as usize].is_some() {
            self.untaken[stream as usize].extend_from_slice(bytes);
            self.flush(stream);
        }
    }

    /// Whether something of a stream waits for the client.
    pub(super) fn owes(&self, stream: OutputStream) -> bool {
        !self.untaken[stream as usize].is_empty()
    }

    /// Where what waits goes.
    pub(super) fn output(&self, stream: OutputStream) -> Option<&fs::File> {
        self.outputs[stream as usize].as_ref().filter(|_| self.owes(stream))
    }

    /// Whether nothing waits any more.
    pub(super) fn is_even(&self) -> bool {
        self.untaken.iter().all(Vec::is_empty)
    }

    /// Writes what the client can take. One that reads no more gets no more.
    pub(super) fn flush(&mut self, stream: OutputStream) {
        let (output, untaken) = (&mut self.outputs[stream as usize], &mut self.untaken[stream as usize]);
        while let Some(pipe) = output
            && !untaken.is_empty()
        {
            match pipe.write(untaken) {
                Ok(count) => drop(untaken.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    untaken.clear();
                    *output = None;
                }
            }
        }
    }

    /// The client's input, when more of it may be read.
    pub(super) fn readable_input(&self) -> Option<&fs::File> {
        self.input.as_ref().filter(|_| self.unfed.is_empty())
    }

    /// Whether input waits for the container.
    pub(super) fn has_unfed(&self) -> bool {
        !self.unfed.is_empty()
    }

    /// Moves input on, to a container that takes any. True when the client has just ended it.
    pub(super) fn feed(&mut self, container: Option<&fs::File>) -> bool {
        if self.unfed.is_empty() {
            let Some(input) = &mut self.input else { return false };
            let mut buffer = [0; INPUT_BYTES];
            match input.read(&mut buffer) {
                Ok(0) => {
                    self.input = None;
                    return true;
                }
                Ok(count) => self.unfed.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => {
                    self.input = None;
                    return true;
                }
            }
        }
        // A container that reads no input, or no more, is fed into the void, as a terminal without a reader is.
        let Some(mut container) = container else {
            self.unfed.clear();
            return false;
        };
        while !self.unfed.is_empty() {
            match container.write(&self.unfed) {
                Ok(count) => drop(self.unfed.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.unfed.clear(),
            }
        }
        false
    }
}
