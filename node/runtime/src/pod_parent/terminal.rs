//! The size of a terminal. Used by the pod's parent and by the node's side; holds nothing.

use std::os::fd::{AsFd, AsRawFd};

/// Sets a terminal's size in characters; its foreground processes get SIGWINCH.
pub(crate) fn set_window_size(terminal: &impl AsFd, width: u16, height: u16) {
    let size = libc::winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A terminal that has been hung up has no size that would matter.
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    let _ = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
}
