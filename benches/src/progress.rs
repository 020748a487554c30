//! Owns the progress line on a terminal. Called by the programs. It must write nothing where there is no terminal, so that
//! logs and pipes hold results only.

#![allow(clippy::disallowed_methods)] // it reads the clock, so as not to draw too often

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 30;
const REDRAW: Duration = Duration::from_millis(100);

/// A line that is redrawn.
#[derive(Debug)]
pub struct ProgressLine {
    drawn: Option<Instant>,
    terminal: bool,
    name: String,
}

impl ProgressLine {
    /// A line for something with a name.
    pub fn new(name: &str) -> Self {
        Self {
            drawn: None,
            terminal: std::io::stderr().is_terminal(),
            name: name.to_owned(),
        }
    }

    /// So much is done, of so much.
    pub fn show(&mut self, done: u64, of: u64) {
        if !self.terminal || self.drawn.is_some_and(|at| at.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        // A progress line that cannot be drawn is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[2K{}", bar(&self.name, done, of));
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.drawn.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn bar(name: &str, done: u64, of: u64) -> String {
    let share = done as f64 / of.max(1) as f64;
    let full = ((share * WIDTH as f64) as usize).min(WIDTH);
    format!("[{}{}] {done}/{of} {name}", "#".repeat(full), " ".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_the_share() {
        assert_eq!(
            bar("x", 5, 10),
            format!("[{}{}] 5/10 x", "#".repeat(15), " ".repeat(15))
        );
        assert_eq!(bar("x", 0, 0), format!("[{}] 0/0 x", " ".repeat(30)));
        assert!(bar("x", 20, 10).starts_with(&format!("[{}]", "#".repeat(30))));
    }
}
