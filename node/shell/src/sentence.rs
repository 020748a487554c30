//! What a line typed into the shell means. Pure: text to message, and the words that may follow a cursor.

use protocol::admin::AdminRequest;

/// A line of the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum Sentence {
    /// A message to an actor.
    Message(AdminRequest),
    /// Move to a path: later relative paths begin there.
    Go(String),
    /// Where one is.
    Where,
    /// What can be said.
    Help,
    /// Leave.
    Exit,
    /// Nothing was said.
    Nothing,
}

/// Why a line means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SentenceError {
    /// No such verb.
    #[error("{verb:?} is no verb of the shell; it knows: {}", VERBS.join(", "))]
    Verb {
        /// What was typed.
        verb: String,
    },
    /// A word is missing.
    #[error("{verb} needs {what}: {usage}")]
    Missing {
        /// The verb.
        verb: &'static str,
        /// What is missing.
        what: &'static str,
        /// How it is used.
        usage: &'static str,
    },
    /// A number is none.
    #[error("{0:?} is not a number of levels")]
    Number(String),
    /// A quotation does not end.
    #[error("a quotation mark is not closed")]
    Quotation,
}

/// The verbs, for completion.
pub const VERBS: &[&str] = &[
    "ls", "tree", "ask", "tell", "stats", "kill", "cd", "pwd", "members", "leader", "help", "exit",
];

/// What can be said.
pub const HELP: &str = "\
Actors are addressed by paths: /nodes/n1/pods/default/web-1, /cluster/default/deployments.apps/web.
A path may be relative to where you are; .. is the level above.

  ls [PATH]               the actors below a path
  tree [PATH] [LEVELS]    all actors below a path
  ask PATH QUESTION       what an actor knows: state, why, ... (every actor says what it understands)
  tell PATH MESSAGE       have an actor do something: reconcile, ...
  stats [PATH]            messages, restarts, age of an actor
  kill PATH               kill an actor; its supervisor starts it again
  cd PATH, pwd            move, and say where you are
  members                 the machines of the cluster
  leader                  who leads, the term, the voters
  help, exit
";

/// Reads a line. `here` is the path that relative ones begin at.
pub fn parse(line: &str, here: &str) -> Result<Sentence, SentenceError> {
    let words = split(line)?;
    let Some((verb, rest)) = words.split_first() else {
        return Ok(Sentence::Nothing);
    };
    let path = |at: usize| rest.get(at).map(|word| resolve(here, word));
    let here_or = |at: usize| path(at).unwrap_or_else(|| here.to_owned());
    let need = |at: usize, verb, what, usage| path(at).ok_or(SentenceError::Missing { verb, what, usage });
    let tail = |verb, what, usage| {
        let tail = rest.get(1..).unwrap_or_default().join(" ");
        if tail.is_empty() {
            Err(SentenceError::Missing { verb, what, usage })
        } else {
            Ok(tail)
        }
    };
    let message = match verb.as_str() {
        "ls" => AdminRequest::Ls { path: here_or(0) },
        "tree" => {
            // `tree 2` is levels, not a path.
            let only_levels = rest.len() == 1 && rest[0].parse::<u32>().is_ok();
            let levels = if only_levels { rest.first() } else { rest.get(1) };
            let depth = levels.map_or(Ok(0), |text| {
                text.parse().map_err(|_| SentenceError::Number(text.clone()))
            })?;
            AdminRequest::Tree {
                path: if only_levels { here.to_owned() } else { here_or(0) },
                depth,
            }
        }
        "ask" => AdminRequest::Ask {
            path: need(0, "ask", "a path", "ask PATH QUESTION")?,
            question: tail("ask", "a question", "ask PATH QUESTION")?,
        },
        "tell" => AdminRequest::Tell {
            path: need(0, "tell", "a path", "tell PATH MESSAGE")?,
            message: tail("tell", "a message", "tell PATH MESSAGE")?,
        },
        // The root is a folder, and nobody's mailbox.
        "stats" if here == "/" => AdminRequest::Stats {
            path: need(0, "stats", "a path", "stats PATH")?,
        },
        "stats" => AdminRequest::Stats { path: here_or(0) },
        "kill" => AdminRequest::Kill {
            path: need(0, "kill", "a path", "kill PATH")?,
        },
        "members" => AdminRequest::Members,
        "leader" => AdminRequest::Leader,
        "cd" => return Ok(Sentence::Go(path(0).unwrap_or_else(|| "/".to_owned()))),
        "pwd" => return Ok(Sentence::Where),
        "help" | "?" => return Ok(Sentence::Help),
        "exit" | "quit" => return Ok(Sentence::Exit),
        other => return Err(SentenceError::Verb { verb: other.to_owned() }),
    };
    Ok(Sentence::Message(message))
}

/// Words, with double or single quotation marks around those that hold spaces.
fn split(line: &str) -> Result<Vec<String>, SentenceError> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '"' | '\'') => (quote, begun) = (Some(character), true),
            (None, c) if c.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                    begun = false;
                }
            }
            (None, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if quote.is_some() {
        return Err(SentenceError::Quotation);
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}

/// A path as it is meant from `here`.
pub fn resolve(here: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{here}/{path}")
    };
    let mut segments: Vec<&str> = Vec::new();
    for segment in joined.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// What the word before the cursor could be: where it starts, the verbs that fit, or the folder whose actors fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// A verb that begins so.
    Verbs(Vec<&'static str>),
    /// An actor in this folder whose name begins so.
    Actors {
        /// The folder.
        folder: String,
        /// What is typed of the name.
        begun: String,
    },
    /// Nothing.
    Nothing,
}

/// What can follow at the end of `line`, and where the word begins.
pub fn complete(line: &str, here: &str) -> (usize, Completion) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let word = &line[start..];
    if line[..start].trim().is_empty() {
        let fitting = VERBS.iter().copied().filter(|verb| verb.starts_with(word)).collect();
        return (start, Completion::Verbs(fitting));
    }
    if line[..start].split_whitespace().count() != 1 {
        return (start, Completion::Nothing);
    }
    let (folder, begun) = word
        .rsplit_once('/')
        .map_or(("", word), |(folder, begun)| (folder, begun));
    let absolute = word.starts_with('/');
    let folder = if absolute {
        format!("/{folder}")
    } else {
        folder.to_owned()
    };
    let at = start + word.len() - begun.len();
    (
        at,
        Completion::Actors {
            folder: resolve(here, &folder),
            begun: begun.to_owned(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_messages() {
        let message = |line: &str| match parse(line, "/nodes/n1") {
            Ok(Sentence::Message(message)) => message,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(
            message("ls"),
            AdminRequest::Ls {
                path: "/nodes/n1".into()
            }
        );
        assert_eq!(message("ls .."), AdminRequest::Ls { path: "/nodes".into() });
        assert_eq!(
            message("tree 2"),
            AdminRequest::Tree {
                path: "/nodes/n1".into(),
                depth: 2
            }
        );
        assert_eq!(
            message("tree / 1"),
            AdminRequest::Tree {
                path: "/".into(),
                depth: 1
            }
        );
        assert_eq!(
            message("ask pods/default/web 'why not ready'"),
            AdminRequest::Ask {
                path: "/nodes/n1/pods/default/web".into(),
                question: "why not ready".into()
            }
        );
        assert_eq!(
            message("kill /cluster"),
            AdminRequest::Kill {
                path: "/cluster".into()
            }
        );
        assert_eq!(parse("cd", "/x"), Ok(Sentence::Go("/".into())));
        assert_eq!(parse("   ", "/"), Ok(Sentence::Nothing));
    }

    #[test]
    fn what_cannot_be_understood_says_what_is_missing() {
        let text = |line: &str| parse(line, "/").unwrap_err().to_string();
        assert!(text("list").contains("it knows: ls, tree"), "{}", text("list"));
        assert_eq!(text("ask /x"), "ask needs a question: ask PATH QUESTION");
        assert_eq!(text("kill"), "kill needs a path: kill PATH");
        assert_eq!(text("stats"), "stats needs a path: stats PATH");
        assert_eq!(text("tree / x"), "\"x\" is not a number of levels");
        assert_eq!(text("ask 'x"), "a quotation mark is not closed");
    }

    #[test]
    fn verbs_and_actors_are_completed() {
        assert_eq!(complete("le", "/"), (0, Completion::Verbs(vec!["leader"])));
        let actors = |folder: &str, begun: &str| Completion::Actors {
            folder: folder.into(),
            begun: begun.into(),
        };
        assert_eq!(complete("ls /nodes/n", "/"), (10, actors("/nodes", "n")));
        assert_eq!(complete("ls /no", "/x"), (4, actors("/", "no")));
        assert_eq!(complete("ls pods/de", "/nodes/n1"), (8, actors("/nodes/n1/pods", "de")));
        assert_eq!(complete("ask /x sta", "/").1, Completion::Nothing);
    }
}
