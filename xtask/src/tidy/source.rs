//! Reading the Rust files of the workspace.
//!
//! Tidy's entry calls it. It must never follow a symbolic link or enter a build directory.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A Rust file.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Relative to the workspace.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl SourceFile {
    /// Parses the file.
    pub fn parse(&self) -> syn::Result<syn::File> {
        syn::parse_file(&self.text)
    }
}

/// Every `.rs` file below the root, sorted by path. Hidden directories and build directories are left out: a build
/// directory is known by the tag file that cargo puts there.
pub fn read(root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in directory
            .read_dir()
            .with_context(|| format!("cannot list {}", directory.display()))?
        {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.');
            if kind.is_dir() && !hidden && name != "target" && !path.join("CACHEDIR.TAG").exists() {
                directories.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                files.push(SourceFile {
                    path: path.strip_prefix(root)?.to_path_buf(),
                    text,
                });
            }
        }
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_directories_and_hidden_ones_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        for path in ["src/a.rs", "target/b.rs", ".hidden/c.rs", "products/d.rs", "src/e.txt"] {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "//! x\n").unwrap();
        }
        std::fs::write(root.path().join("products/CACHEDIR.TAG"), "").unwrap();
        let paths: Vec<_> = read(root.path()).unwrap().into_iter().map(|file| file.path).collect();
        assert_eq!(paths, [PathBuf::from("src/a.rs")]);
    }
}
