//! A layer as a tree in memory, filled from packages and files and written as the same bytes every time.
//!
//! The image builder owns it. Directories, files and links only; owner 0, time 0, sorted names. It must never write to
//! the file system on its own: whoever wants the tree on disk calls [`Tree::unpack`].

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};
use std::process::{Command, Stdio};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory with its mode.
    Directory(u32),
    /// A file with its mode and contents.
    File(u32, Vec<u8>),
    /// A symbolic link with its target as written.
    Symlink(String),
    /// A second name of a file of this tree.
    Hardlink(String),
}

/// A tree by path, without leading slash. Parents sort before children.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

/// Directories at the root that are links into `usr` since Debian 12. Packages still use both spellings.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What no container reads. Licences are kept.
const LEFT_OUT: [&str; 12] = [
    "etc/default",
    "etc/init.d",
    "etc/logrotate.d",
    "usr/lib/systemd",
    "usr/share/applications",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/man",
    "usr/share/pixmaps",
];

impl Tree {
    /// A tree with the directories that every root has, and the users root and nobody.
    pub fn skeleton() -> Self {
        let mut tree = Self::default();
        for (path, mode) in [
            ("dev", 0o755),
            ("etc", 0o755),
            ("proc", 0o755),
            ("root", 0o700),
            ("run", 0o755),
            ("sys", 0o755),
            ("tmp", 0o1777),
            ("usr/bin", 0o755),
            ("usr/lib", 0o755),
            ("usr/sbin", 0o755),
            ("var/tmp", 0o1777),
        ] {
            tree.insert(path, Node::Directory(mode));
        }
        tree.insert("etc/passwd", Node::File(0o644, ACCOUNTS.into()));
        tree.insert("etc/group", Node::File(0o644, b"root:x:0:\nnogroup:x:65534:\n".into()));
        for name in ["bin", "sbin", "lib"] {
            tree.insert(name, Node::Symlink(format!("usr/{name}")));
        }
        tree
    }

    /// Puts a node at a path, with the directories above it. A directory does not replace what is there.
    pub fn insert(&mut self, path: &str, node: Node) {
        for (end, _) in path.match_indices('/') {
            self.nodes
                .entry(path[..end].to_owned())
                .or_insert(Node::Directory(0o755));
        }
        if matches!(node, Node::Directory(_)) {
            self.nodes.entry(path.to_owned()).or_insert(node);
        } else {
            self.nodes.insert(path.to_owned(), node);
        }
    }

    /// What stands at a path.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Whether there is anything in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds the files of a Debian package.
    pub fn add_package(&mut self, package: &Path) -> Result<()> {
        let mut child = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(package)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("dpkg-deb could not be started")?;
        let archive = child.stdout.take().context("dpkg-deb has no output")?;
        let read = self.add_archive(archive);
        let status = child.wait()?;
        read.and_then(|()| {
            if status.success() {
                Ok(())
            } else {
                bail!("dpkg-deb failed with {status}")
            }
        })
        .with_context(|| format!("while unpacking {}", package.display()))
    }

    /// Adds the entries of a tar archive.
    fn add_archive(&mut self, reader: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = inner_path(&entry.path()?)?;
            if path.is_empty() || is_left_out(&path) {
                continue;
            }
            let mode = entry.header().mode()? & 0o7777;
            let target = entry.link_name()?.map(|target| target.to_string_lossy().into_owned());
            let node = match (entry.header().entry_type(), target) {
                (tar::EntryType::Directory, _) => Node::Directory(mode),
                (tar::EntryType::Regular | tar::EntryType::Continuous, _) => {
                    let mut contents = Vec::new();
                    entry.read_to_end(&mut contents)?;
                    Node::File(mode, contents)
                }
                (tar::EntryType::Symlink, Some(target)) => Node::Symlink(target),
                (tar::EntryType::Link, Some(target)) => Node::Hardlink(inner_path(Path::new(&target))?),
                (kind, _) => bail!("{path} is of kind {kind:?}, which an image of ours has no use for"),
            };
            if let Some(top) = path.strip_prefix("usr/").and_then(|rest| rest.split('/').next())
                && MERGED.contains(&top)
                && !self.nodes.contains_key(top)
            {
                self.insert(top, Node::Symlink(format!("usr/{top}")));
            }
            self.insert(&path, node);
        }
        Ok(())
    }

    /// The layer as an uncompressed archive.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, node) in &self.nodes {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match node {
                Node::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Node::File(mode, contents) => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(contents.len() as u64);
                    builder.append_data(&mut header, path, contents.as_slice())?;
                }
                Node::Symlink(target) | Node::Hardlink(target) => {
                    let hard = matches!(node, Node::Hardlink(_));
                    header.set_entry_type(if hard {
                        tar::EntryType::Link
                    } else {
                        tar::EntryType::Symlink
                    });
                    header.set_mode(0o777);
                    builder.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(builder.into_inner()?)
    }

    /// Writes the tree below an empty directory, as whoever runs this.
    pub fn unpack(&self, root: &Path) -> Result<()> {
        for (path, node) in &self.nodes {
            let place = root.join(path);
            let written = match node {
                Node::Directory(_) => std::fs::create_dir_all(&place),
                Node::File(mode, contents) => std::fs::write(&place, contents)
                    .and_then(|()| std::fs::set_permissions(&place, std::fs::Permissions::from_mode(*mode))),
                Node::Symlink(target) => symlink(target, &place),
                Node::Hardlink(target) => std::fs::hard_link(root.join(target), &place),
            };
            written.with_context(|| format!("cannot write {}", place.display()))?;
        }
        Ok(())
    }
}

/// The accounts of every image.
const ACCOUNTS: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";

/// Compresses an archive. The header holds neither name nor time.
pub fn compress(archive: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
    encoder.write_all(archive)?;
    Ok(encoder.finish()?)
}

/// A path inside the image: without leading `./`, and below `usr` where the root has a link. One that climbs out is refused.
fn inner_path(path: &Path) -> Result<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().with_context(|| format!("{path:?} is not UTF-8"))?),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("the path {} climbs out of the package", path.display())
            }
        }
    }
    if parts.len() > 1 && MERGED.contains(&parts[0]) {
        parts.insert(0, "usr");
    } else if parts.len() == 1 && MERGED.contains(&parts[0]) {
        return Ok(String::new()); // The directory itself, which is a link in our roots.
    }
    Ok(parts.join("/"))
}

fn is_left_out(path: &str) -> bool {
    let below = |directory: &str| {
        path.strip_prefix(directory)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    LEFT_OUT.iter().any(|directory| below(directory)) && !path.ends_with("/copyright")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package_like() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, contents: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o4755);
            header.set_mtime(12345);
            header.set_uid(1000);
            header.set_size(contents.len() as u64);
            builder.append_data(&mut header, path, contents.as_bytes()).unwrap();
        };
        add("./lib/x86_64-linux-gnu/libz.so.1.2", "elf");
        add("./bin/sh", "shell");
        add("./usr/share/doc/z/changelog.gz", "noise");
        add("./usr/share/doc/z/copyright", "licence");
        add("./lib64/ld.so", "loader");
        builder.into_inner().unwrap()
    }

    #[test]
    fn both_spellings_of_merged_directories_end_below_usr() {
        let mut tree = Tree::skeleton();
        tree.add_archive(package_like().as_slice()).unwrap();
        assert_eq!(
            tree.node("usr/lib/x86_64-linux-gnu/libz.so.1.2"),
            Some(&Node::File(0o4755, b"elf".into()))
        );
        assert_eq!(tree.node("usr/bin/sh"), Some(&Node::File(0o4755, b"shell".into())));
        assert_eq!(tree.node("bin"), Some(&Node::Symlink("usr/bin".into())));
        assert_eq!(tree.node("lib64"), Some(&Node::Symlink("usr/lib64".into())));
    }

    #[test]
    fn documentation_is_left_out_and_licences_are_kept() {
        let mut tree = Tree::default();
        tree.add_archive(package_like().as_slice()).unwrap();
        assert_eq!(tree.node("usr/share/doc/z/changelog.gz"), None);
        assert!(tree.node("usr/share/doc/z/copyright").is_some());
    }

    #[test]
    fn the_archive_does_not_depend_on_the_order_or_times_of_insertion() {
        let mut forwards = Tree::skeleton();
        forwards.insert("a/b", Node::File(0o644, b"1".into()));
        forwards.insert("a/c", Node::Symlink("b".into()));
        let mut backwards = Tree::default();
        backwards.insert("a/c", Node::Symlink("b".into()));
        backwards.insert("a/b", Node::File(0o644, b"1".into()));
        for (path, node) in Tree::skeleton().nodes {
            backwards.insert(&path, node);
        }
        let archive = forwards.archive().unwrap();
        assert_eq!(archive, backwards.archive().unwrap());
        assert_eq!(compress(&archive).unwrap(), compress(&archive).unwrap());
    }

    #[test]
    fn an_archive_is_read_back_as_the_same_tree() {
        let mut tree = Tree::skeleton();
        tree.insert("opt/x/y", Node::File(0o755, vec![7; 1000]));
        tree.insert("opt/x/z", Node::Hardlink("opt/x/y".into()));
        tree.insert(&format!("opt/{}", "long".repeat(40)), Node::Symlink("x".into()));
        let mut read = Tree::default();
        for (path, node) in Tree::skeleton()
            .nodes
            .iter()
            .filter(|(path, _)| MERGED.contains(&path.as_str()))
        {
            read.insert(path, node.clone());
        }
        read.add_archive(tree.archive().unwrap().as_slice()).unwrap();
        assert_eq!(read, tree);
    }

    #[test]
    fn a_path_that_climbs_out_is_refused() {
        assert!(inner_path(Path::new("usr/../../etc/passwd")).is_err());
        assert_eq!(inner_path(Path::new("./usr/bin/x")).unwrap(), "usr/bin/x");
        assert_eq!(inner_path(Path::new("/lib/x")).unwrap(), "usr/lib/x");
    }

    #[test]
    fn a_tree_on_disk_has_its_files_modes_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let mut tree = Tree::skeleton();
        tree.insert("usr/bin/x", Node::File(0o755, b"x".into()));
        tree.insert("usr/bin/y", Node::Hardlink("usr/bin/x".into()));
        tree.unpack(directory.path()).unwrap();
        assert_eq!(std::fs::read(directory.path().join("bin/y")).unwrap(), b"x");
        let mode = directory
            .path()
            .join("usr/bin/x")
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
    }
}
