//! Builds the example's images from Debian packages into OCI layouts, without a registry and without root.
//!
//! `cargo xtask images`, `up` and `test` call it. The same packages and files give the same bytes. It must never install
//! a package or run a package's script.

mod debian;
mod layer;
mod layout;
mod programs;
mod recipe;

use crate::workspace::Workspace;
use crate::{command, system_packages};
use anyhow::{Context, Result};
use layer::{Node, Tree};
use layout::Layer;
use recipe::{BaseRecipe, ImageRecipe, Recipes};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Changes when this builder writes other bytes from the same packages.
const BUILDER_VERSION: u32 = 1;

/// Where the layouts are.
pub fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("images")
}

/// Builds what is absent or out of date, and returns the directory of every layout. An image is out of date when its
/// recipe or files have changed; newer packages in the archive are taken with `force`. A new image is checked where that
/// is possible, every one with `check`.
pub fn run(workspace: &Workspace, force: bool, check: bool) -> Result<Vec<PathBuf>> {
    let recipes = Recipes::read(&workspace.root.join("examples/guestbook/images.toml"))?;
    let directory = directory(workspace);
    let builder = Builder {
        recipes: &recipes,
        directory: &directory,
    };
    let mut bases: BTreeMap<&str, Base<'_>> = BTreeMap::new();
    let mut layouts = Vec::new();
    for image in &recipes.image {
        let base = bases.entry(&image.base).or_insert_with(|| Base {
            recipe: &recipes.base[&image.base],
            scratch: &directory,
            built: None,
        });
        let (layout, is_new) = builder.image(image, base, force)?;
        layouts.push(layout);
        if check || (is_new && nix::unistd::geteuid().is_root()) {
            let answer = programs::check(&builder.tree(image, base)?, &image.check, &directory)
                .with_context(|| format!("the image {} does not work", image.name))?;
            println!("  {} works: {}", image.name, answer.trim());
        }
    }
    Ok(layouts)
}

/// What all images of a run share.
struct Builder<'run> {
    recipes: &'run Recipes,
    directory: &'run Path,
}

impl Builder<'_> {
    /// Builds one image unless its layout says that it was built from the same things, and says whether it did.
    fn image(&self, image: &ImageRecipe, base: &mut Base<'_>, force: bool) -> Result<(PathBuf, bool)> {
        let place = self.directory.join(&image.name);
        let own = self.own_files(image)?;
        let fingerprint = fingerprint(image, base.recipe, &own)?;
        let built_from = std::fs::read_to_string(place.join(layout::FINGERPRINT)).ok();
        if !force && built_from.as_deref() == Some(&fingerprint) {
            println!("image {}: up to date", image.reference);
            return Ok((place, false));
        }
        require_programs()?;
        let mut layers = vec![base.build()?.1.clone()];
        if !own.is_empty() {
            layers.push(Layer::new(&own.archive()?)?);
        }
        layout::write(&place, image, &debian::architecture()?, &layers, &fingerprint)?;
        let bytes: usize = layers.iter().map(|layer| layer.blob.len()).sum();
        println!(
            "image {}: built, {:.1} MB in {}",
            image.reference,
            bytes as f64 / 1e6,
            place.display()
        );
        Ok((place, true))
    }

    /// The whole root of an image.
    fn tree(&self, image: &ImageRecipe, base: &mut Base<'_>) -> Result<Tree> {
        let mut tree = base.build()?.0.clone();
        self.add_own_files(image, &mut tree)?;
        Ok(tree)
    }

    /// The layer of our own files.
    fn own_files(&self, image: &ImageRecipe) -> Result<Tree> {
        let mut tree = Tree::default();
        self.add_own_files(image, &mut tree)?;
        Ok(tree)
    }

    fn add_own_files(&self, image: &ImageRecipe, tree: &mut Tree) -> Result<()> {
        for file in &image.files {
            let from = self.recipes.directory.join(&file.from);
            let contents = std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            tree.insert(&file.to, Node::File(file.mode, contents));
        }
        Ok(())
    }
}

/// Everything that we decide about an image.
fn fingerprint(image: &ImageRecipe, base: &BaseRecipe, own: &Tree) -> Result<String> {
    let own = layout::digest(&own.archive()?);
    Ok(format!("builder {BUILDER_VERSION}\n{base:?}\n{image:?}\n{own}\n"))
}

/// A layer of packages, which is fetched and built when the first image needs it.
struct Base<'run> {
    recipe: &'run BaseRecipe,
    scratch: &'run Path,
    built: Option<(Tree, Layer)>,
}

impl Base<'_> {
    fn build(&mut self) -> Result<&(Tree, Layer)> {
        if self.built.is_none() {
            let mut tree = Tree::skeleton();
            for file in self.fetch()? {
                tree.add_package(&file)?;
            }
            if let Some(busybox) = &self.recipe.applets {
                programs::link_applets(&mut tree, busybox, self.scratch)?;
            }
            if !self.recipe.precompile.is_empty() {
                programs::precompile(&mut tree, &self.recipe.precompile, self.scratch)?;
            }
            let layer = Layer::new(&tree.archive()?)?;
            self.built = Some((tree, layer));
        }
        self.built.as_ref().context("the base was built above")
    }

    /// The packages' files, in the order of their names. apt's lists may be absent on a fresh machine, or name versions
    /// that the archive no longer has: then they are renewed once.
    fn fetch(&self) -> Result<Vec<PathBuf>> {
        let (packages, cache) = (&self.recipe.packages, self.scratch.join(".packages"));
        let attempt = || debian::download(&debian::closure(packages, &self.recipe.without)?, &cache);
        attempt()
            .or_else(|error| system_packages::update_lists().context(error).and_then(|()| attempt()))
            .with_context(|| format!("the packages {} and what they need", packages.join(" ")))
    }
}

/// A directory that is removed when it goes out of scope. Names hold the process id, so that two runs do not meet.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path, purpose: &str) -> Result<Self> {
        let path = parent.join(format!(".{purpose}.{}", std::process::id()));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} was not removed: {error}", self.0.display());
        }
    }
}

/// Whether the programs that the builder itself uses are there.
fn require_programs() -> Result<()> {
    for program in ["apt-get", "apt-cache", "dpkg", "dpkg-deb"] {
        command::find_program(program).with_context(|| {
            format!("`{program}` is not here: images are built from Debian packages on Debian or Ubuntu")
        })?;
    }
    Ok(())
}
