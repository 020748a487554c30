//! Serves OCI layouts from a real registry (Debian's docker-registry), for the tests that pull.
//!
//! `cargo xtask registry` runs it in the foreground: it starts the registry on a directory of its own, pushes every
//! layout, prints `registry ADDRESS` and waits for SIGINT or SIGTERM. Its data goes with it.

use crate::workspace::Workspace;
use crate::{clients, images, process};
use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Runs until it is told to stop.
pub fn run(workspace: &Workspace, address: Ipv4Addr, port: u16, layouts: Option<PathBuf>) -> Result<()> {
    let layouts = layouts.unwrap_or_else(|| images::directory(workspace));
    let program = clients::registry(workspace)?;
    let store = std::env::temp_dir().join(format!("actorium-registry-{}", std::process::id()));
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let address = free_address(address, port)?;
    let mut registry = start(&program, &store, address)?;
    let served = serve(&mut registry, address, &layouts, &signals);
    let stopped = registry.kill().and_then(|()| registry.wait());
    std::fs::remove_dir_all(&store).with_context(|| format!("cannot remove {}", store.display()))?;
    served.and(stopped.map(drop).context("the registry was not stopped"))
}

fn serve(registry: &mut Child, address: SocketAddr, layouts: &Path, signals: &SigSet) -> Result<()> {
    let answers = || TcpStream::connect(address).is_ok();
    if !process::wait_until(Duration::from_secs(20), answers) {
        bail!("the registry does not answer on {address} (is the port in use?)");
    }
    for layout in layouts_in(layouts)? {
        println!("serves {}/{}", address, push(address, &layout)?);
    }
    println!("registry {address}");
    if signals.wait()? == Signal::SIGCHLD {
        let status = registry
            .try_wait()?
            .map_or_else(String::new, |status| status.to_string());
        bail!("the registry ended by itself: {status}");
    }
    Ok(())
}

/// An address that nobody listens on, with a port of the kernel's choice when none is given.
fn free_address(address: Ipv4Addr, port: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind((address, port)).with_context(|| format!("cannot listen on {address}:{port}"))?;
    Ok(listener.local_addr()?)
}

/// Starts the registry so that it ends with us, however we end.
fn start(program: &Path, store: &Path, address: SocketAddr) -> Result<Child> {
    std::fs::create_dir_all(store).with_context(|| format!("cannot create {}", store.display()))?;
    let configuration = store.join("config.yml");
    std::fs::write(&configuration, configuration_text(store, address))?;
    let mut command = Command::new(program);
    command.arg("serve").arg(&configuration).stdin(Stdio::null());
    // SAFETY: two system calls between fork and exec; nothing is allocated or locked.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(())
        });
    }
    command
        .spawn()
        .with_context(|| format!("{} could not be started", program.display()))
}

fn configuration_text(store: &Path, address: SocketAddr) -> String {
    let root = store.join("data");
    format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        root.display()
    )
}

/// Every layout in a directory.
fn layouts_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = directory
        .read_dir()
        .with_context(|| format!("cannot list {}: run `cargo xtask images` first", directory.display()))?;
    let mut layouts: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.join("oci-layout").is_file())
        .collect();
    layouts.sort();
    Ok(layouts)
}

/// Pushes the first image of a layout, and returns its name in the registry: the reference without its host.
fn push(address: SocketAddr, layout: &Path) -> Result<String> {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let descriptor = &index["manifests"][0];
    let reference = descriptor["annotations"]["org.opencontainers.image.ref.name"].as_str();
    let reference = reference.ok_or_else(|| anyhow!("{} names no reference", layout.display()))?;
    let (repository, tag) = repository_and_tag(reference)?;
    let manifest = read_blob(layout, descriptor)?;
    let parsed: Value = serde_json::from_slice(&manifest)?;
    let layers = parsed["layers"].as_array().context("the manifest has no layers")?;
    for blob in layers.iter().chain([&parsed["config"]]) {
        let (upload, _) = request(
            address,
            "POST",
            &format!("/v2/{repository}/blobs/uploads/"),
            None,
            &[],
            202,
        )?;
        let place = upload.context("the registry names no place for the upload")?;
        let place = place
            .find("/v2/")
            .map_or(place.as_str(), |start| &place[start..])
            .to_owned();
        let digest = blob["digest"].as_str().context("a descriptor has no digest")?;
        let separator = if place.contains('?') { '&' } else { '?' };
        let bytes = read_blob(layout, blob)?;
        request(
            address,
            "PUT",
            &format!("{place}{separator}digest={digest}"),
            Some("application/octet-stream"),
            &bytes,
            201,
        )?;
    }
    let kind = descriptor["mediaType"].as_str();
    request(
        address,
        "PUT",
        &format!("/v2/{repository}/manifests/{tag}"),
        kind,
        &manifest,
        201,
    )?;
    Ok(format!("{repository}:{tag}"))
}

fn repository_and_tag(reference: &str) -> Result<(&str, &str)> {
    let (_, path) = reference
        .split_once('/')
        .with_context(|| format!("`{reference}` names no host"))?;
    path.split_once(':')
        .with_context(|| format!("`{reference}` has no tag"))
}

fn read_blob(layout: &Path, descriptor: &Value) -> Result<Vec<u8>> {
    let digest = descriptor["digest"].as_str().context("a descriptor has no digest")?;
    let file = layout.join("blobs").join(digest.replacen(':', "/", 1));
    std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// One HTTP request on a connection of its own. Returns the `Location` and the body.
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    kind: Option<&str>,
    body: &[u8],
    expected: u16,
) -> Result<(Option<String>, String)> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(60)))?;
    let kind = kind.map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    connection.write_all(body)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (status, location) = parse_head(&answer).with_context(|| format!("{method} {path}: no HTTP answer"))?;
    if status != expected {
        bail!("{method} {path}: the registry answered {status}, not {expected}: {answer}");
    }
    Ok((location, answer))
}

fn parse_head(answer: &str) -> Option<(u16, Option<String>)> {
    let mut lines = answer.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let location = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("location"))
        .map(|(_, value)| value.trim().to_owned());
    Some((status, location))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_answer_is_read() {
        let answer = "HTTP/1.1 202 Accepted\r\nlocation: http://a/v2/x?_state=y\r\n\r\nLocation: no\r\n";
        assert_eq!(
            parse_head(answer),
            Some((202, Some("http://a/v2/x?_state=y".to_owned())))
        );
        assert_eq!(parse_head("HTTP/1.1 201 Created\r\n\r\n"), Some((201, None)));
        assert_eq!(parse_head(""), None);
    }

    #[test]
    fn a_reference_is_taken_apart() {
        assert_eq!(
            repository_and_tag("actorium.local/guestbook:v1").unwrap(),
            ("guestbook", "v1")
        );
        assert!(repository_and_tag("guestbook").is_err());
        assert!(repository_and_tag("host/guestbook").is_err());
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(
            free_address(Ipv4Addr::LOCALHOST, port)
                .unwrap_err()
                .to_string()
                .contains(&port.to_string())
        );
    }
}
