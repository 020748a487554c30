//! The shell itself: reads lines with completion and history, says them to the actors, prints what they answer. Also one
//! line at a time, for scripts.

use std::path::PathBuf;
use std::sync::Arc;

use protocol::admin::{AdminReply, AdminRequest};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};
use tokio::runtime::Handle;

use crate::client::{Client, ClientError};
use crate::render;
use crate::sentence::{Completion, HELP, Sentence, complete, parse, resolve};

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// As the actors give them.
    Json,
}

/// Says one line and prints the answer. `here` changes with `cd`. False when the line was `exit`.
pub async fn say(client: &Client, line: &str, here: &mut String, output: Output) -> Result<bool, ClientError> {
    let sentence = parse(line, here).map_err(|error| ClientError::Usage(error.to_string()))?;
    match sentence {
        Sentence::Nothing => {}
        Sentence::Exit => return Ok(false),
        Sentence::Help => print!("{HELP}"),
        Sentence::Where => println!("{here}"),
        Sentence::Go(path) => {
            if path != "/" {
                client.admin(&AdminRequest::Ls { path: path.clone() }).await?;
            }
            *here = path;
        }
        Sentence::Message(message) => {
            let root = match &message {
                AdminRequest::Tree { path, .. } => Some(path.clone()),
                _ => None,
            };
            let reply = client.admin(&message).await?;
            match output {
                Output::Text => print!("{}", render::reply(&reply, root.as_deref())),
                Output::Json => println!("{}", json(&reply)),
            }
        }
    }
    Ok(true)
}

/// A reply as one line of JSON; what an actor answered is not wrapped again.
fn json(reply: &AdminReply) -> String {
    match reply {
        AdminReply::Json(text) => text.clone(),
        AdminReply::Actors(actors) => serde_json::json!(actors).to_string(),
        AdminReply::Members(members) => serde_json::json!(members).to_string(),
        AdminReply::Done(text) => serde_json::json!({ "done": text }).to_string(),
    }
}

struct Typing {
    client: Arc<Client>,
    runtime: Handle,
    here: Arc<std::sync::Mutex<String>>,
}

impl Completer for Typing {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let here = self.here.lock().map(|here| here.clone()).unwrap_or_default();
        let (start, completion) = complete(&line[..position], &here);
        let candidates = match completion {
            Completion::Nothing => Vec::new(),
            Completion::Verbs(verbs) => verbs.into_iter().map(|verb| format!("{verb} ")).collect(),
            Completion::Actors { folder, begun } => {
                let client = Arc::clone(&self.client);
                let asked = self
                    .runtime
                    .block_on(async move { client.admin(&AdminRequest::Ls { path: folder }).await });
                match asked {
                    Ok(AdminReply::Actors(actors)) => names(&actors, &begun),
                    _ => Vec::new(),
                }
            }
        };
        Ok((start, candidates))
    }
}

fn names(actors: &[protocol::admin::ActorEntry], begun: &str) -> Vec<String> {
    let named = actors.iter().filter_map(|actor| {
        let name = actor.path.rsplit('/').next()?;
        let slash = if actor.kind == "folder" || actor.children > 0 {
            "/"
        } else {
            " "
        };
        name.starts_with(begun).then(|| format!("{name}{slash}"))
    });
    named.collect()
}

impl Hinter for Typing {
    type Hint = String;
}

impl Highlighter for Typing {}
impl Validator for Typing {}
impl Helper for Typing {}

/// Reads lines until `exit` or the end of input.
pub async fn run(client: Client, output: Output) -> Result<(), ClientError> {
    let client = Arc::new(client);
    let here = Arc::new(std::sync::Mutex::new("/".to_owned()));
    let runtime = Handle::current();
    println!(
        "Connected to {}. `help` says what can be said, Tab completes, Ctrl-D leaves.",
        client.server()
    );
    let thread = tokio::task::spawn_blocking(move || read_lines(&client, &here, &runtime, output));
    thread.await.map_err(|error| ClientError::Usage(error.to_string()))?
}

fn read_lines(
    client: &Arc<Client>,
    here: &Arc<std::sync::Mutex<String>>,
    runtime: &Handle,
    output: Output,
) -> Result<(), ClientError> {
    let broken = |error: ReadlineError| ClientError::Usage(format!("the terminal cannot be read: {error}"));
    let mut editor: Editor<Typing, DefaultHistory> = Editor::new().map_err(broken)?;
    editor.set_helper(Some(Typing {
        client: Arc::clone(client),
        runtime: runtime.clone(),
        here: Arc::clone(here),
    }));
    let history = history_path();
    if let Some(path) = &history {
        // The first session has no history.
        let _ = editor.load_history(path);
    }
    loop {
        let mut current = here.lock().map(|here| here.clone()).unwrap_or_default();
        match editor.readline(&format!("{current} > ")) {
            Ok(line) => {
                let _ = editor.add_history_entry(line.as_str());
                match runtime.block_on(say(client, &line, &mut current, output)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => eprintln!("{error}"),
                }
                if let Ok(mut here) = here.lock() {
                    *here = resolve("/", &current);
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        eprintln!("the history was not saved to {}: {error}", path.display());
    }
    Ok(())
}

/// `$XDG_STATE_HOME/actorium/history`, else below the home directory.
fn history_path() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let base = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))?;
    let directory = base.join("actorium");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}
