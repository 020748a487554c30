//! The directories of the database. `CURRENT` names the generation that counts; it is replaced by a rename, so that a
//! crash leaves the old name or the new one. Generations that it does not name are remains, and are removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::backend::BackendError;

const CURRENT: &str = "CURRENT";
const PREFIX: &str = "generation-";

/// The generations in one directory.
pub struct Generations {
    directory: PathBuf,
}

fn failed(what: impl Into<String>, error: &io::Error) -> BackendError {
    BackendError::Disk {
        what: what.into(),
        reason: error.to_string(),
    }
}

impl Generations {
    /// Takes up the directory; makes it, and the first generation's name, if they do not exist.
    pub fn open(directory: &Path) -> Result<Generations, BackendError> {
        let generations = Generations {
            directory: directory.to_owned(),
        };
        fs::create_dir_all(directory).map_err(|error| failed(format!("creating {}", directory.display()), &error))?;
        let current = directory.join(CURRENT);
        match fs::read_to_string(&current) {
            Ok(name) if number(name.trim()).is_some() => {}
            Ok(name) => {
                let reason = format!("it names {name:?}; restore the directory from a backup, or remove it whole");
                return Err(BackendError::Damaged {
                    what: current.display().to_string(),
                    reason,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => generations.write_current(1)?,
            Err(error) => return Err(failed(format!("reading {}", current.display()), &error)),
        }
        Ok(generations)
    }

    /// Where the generation that counts lies.
    pub fn current(&self) -> PathBuf {
        self.path(self.current_number())
    }

    /// Renames a checkpoint to be the next generation, which does not count yet.
    pub fn adopt(&self, checkpoint: &Path) -> Result<PathBuf, BackendError> {
        let path = self.path(self.current_number() + 1);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| failed(format!("removing {}", path.display()), &error))?;
        }
        let what = || format!("moving {} to {}", checkpoint.display(), path.display());
        sync_files(checkpoint).map_err(|error| failed(what(), &error))?;
        fs::rename(checkpoint, &path).map_err(|error| failed(what(), &error))?;
        Ok(path)
    }

    /// Makes an adopted generation the one that counts.
    pub fn switch_to(&self, path: &Path) -> Result<(), BackendError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = number(name).ok_or_else(|| BackendError::Damaged {
            what: path.display().to_string(),
            reason: "it is not the name of a generation".to_owned(),
        })?;
        self.write_current(number)
    }

    /// Removes remains. What cannot be removed now is tried again when the directory is opened next.
    pub fn remove_all_but_current(&self) {
        let current = self.current_number();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let number = entry.file_name().to_str().and_then(number);
            if number.is_some_and(|number| number != current)
                && let Err(error) = fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "an old generation of the store stays on disk");
            }
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{PREFIX}{number}"))
    }

    fn current_number(&self) -> u64 {
        // Read back rather than remembered: the file is the truth. `open` has checked it.
        fs::read_to_string(self.directory.join(CURRENT))
            .ok()
            .and_then(|name| number(name.trim()))
            .unwrap_or(1)
    }

    fn write_current(&self, number: u64) -> Result<(), BackendError> {
        let (current, new) = (self.directory.join(CURRENT), self.directory.join("CURRENT.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(format!("{PREFIX}{number}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &current)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|error| failed(format!("writing {}", current.display()), &error))
    }
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// A checkpoint that came over the network was written through the page cache; it must be on disk before it counts.
fn sync_files(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(directory)?.sync_all()
}
