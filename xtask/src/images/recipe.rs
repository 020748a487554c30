//! What the images are made of (`examples/guestbook/images.toml`).
//!
//! The builder reads it. It holds no policy of how packages are found or layers written.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All images of one file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipes {
    /// The images.
    pub image: Vec<ImageRecipe>,
    /// The layers of Debian packages on which they stand, by name.
    pub base: BTreeMap<String, BaseRecipe>,
    /// The directory of the file, to which the paths in it are relative.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// One image: a base and some files.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecipe {
    /// The name of the layout's directory.
    pub name: String,
    /// The full reference, which becomes the annotation `org.opencontainers.image.ref.name`.
    pub reference: String,
    /// The base's name.
    pub base: String,
    /// Files of our own, in a layer of their own.
    #[serde(default)]
    pub files: Vec<FileRecipe>,
    /// The program.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
    /// `uid:gid`; empty is root.
    #[serde(default)]
    pub user: String,
    /// Ports that it listens on, `8080/tcp`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// A command that succeeds in the image's root when the image works.
    pub check: Vec<String>,
}

/// A file of ours in an image.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecipe {
    /// Relative to the recipe's directory.
    pub from: PathBuf,
    /// Relative to the image's root.
    pub to: String,
    /// Permission bits.
    pub mode: u32,
}

/// A layer of Debian packages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRecipe {
    /// Packages that are unpacked with what they depend on.
    pub packages: Vec<String>,
    /// Dependencies that are left out.
    pub without: Vec<String>,
    /// A busybox whose programs get links.
    pub applets: Option<String>,
    /// Python modules that are compiled to byte code.
    #[serde(default)]
    pub precompile: Vec<String>,
}

impl Recipes {
    /// Reads a recipe file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut recipes = Self::parse(&text).with_context(|| format!("in {}", path.display()))?;
        recipes.directory = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(recipes)
    }

    fn parse(text: &str) -> Result<Self> {
        let recipes: Self = toml::from_str(text)?;
        for image in &recipes.image {
            if !recipes.base.contains_key(&image.base) {
                bail!("image {} stands on `{}`, which is no [base]", image.name, image.base);
            }
            if image.name.is_empty() || image.name.contains(['/', '.']) {
                bail!(
                    "`{}` is no name for a directory: letters, digits and dashes",
                    image.name
                );
            }
        }
        Ok(recipes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_on_a_base_that_is_absent_is_refused() {
        let text = "base = {}\n[[image]]\nname = \"a\"\nreference = \"r/a:1\"\nbase = \"ghost\"\ncheck = []\n";
        assert!(Recipes::parse(text).unwrap_err().to_string().contains("ghost"));
    }

    #[test]
    fn a_name_that_would_leave_the_directory_is_refused() {
        let base = "[base.b]\npackages = []\nwithout = []\n";
        for name in ["../a", "a/b", ""] {
            let text = format!("[[image]]\nname = \"{name}\"\nreference = \"r\"\nbase = \"b\"\ncheck = []\n{base}");
            assert!(
                Recipes::parse(&text).unwrap_err().to_string().contains("no name"),
                "{name}"
            );
        }
    }

    #[test]
    fn the_recipes_of_the_example_are_understood() {
        // As cargo says now: a target directory can be shared by clones, and what was built in one runs in another.
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let path = Path::new(&package).join("../examples/guestbook/images.toml");
        let recipes = Recipes::read(&path).unwrap();
        let names: Vec<_> = recipes.image.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["guestbook-v1", "guestbook-v2", "redis-7", "busybox-1"]);
    }
}
