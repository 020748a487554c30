//! The paths that a file speaks, `a::b::c`, taken from its tokens.
//!
//! Rules about what code may call use it. Tokens are looked at, and not the syntax tree, so that the insides of macros are
//! seen too. Code under `#[cfg(test)]` is left out.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;

/// A path and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpokenPath {
    /// The line on which it starts.
    pub line: usize,
    /// The path as written, with the groups of `use` resolved.
    pub name: String,
}

/// Every path of a file, without those in its tests.
pub fn spoken_paths(mut syntax: syn::File) -> Vec<SpokenPath> {
    remove_tests(&mut syntax.items);
    let mut found = Vec::new();
    collect_paths(syntax.into_token_stream(), "", &mut found);
    found
}

/// Whether a path is another or lies below it: `std::fs::read` below `std::fs`, but not `std::fsx`.
pub fn begins(name: &str, beginning: &str) -> bool {
    name.strip_prefix(beginning)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Takes out what is compiled for tests only.
fn remove_tests(items: &mut Vec<syn::Item>) {
    items.retain(|item| !is_for_tests(attributes(item)));
    for item in items {
        if let syn::Item::Mod(module) = item
            && let Some((_, inner)) = &mut module.content
        {
            remove_tests(inner);
        }
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Path>()
                    .is_ok_and(|condition| condition.is_ident("test")))
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(module) => &module.attrs,
        syn::Item::Fn(function) => &function.attrs,
        syn::Item::Use(import) => &import.attrs,
        syn::Item::Impl(implementation) => &implementation.attrs,
        syn::Item::Struct(structure) => &structure.attrs,
        _ => &[],
    }
}

/// Collects every `a::b::c` A group after `::` is a use tree: its paths continue the
/// one before. Any other group starts afresh. Documentation and string literals are literals and hold no paths.
fn collect_paths(tokens: TokenStream, prefix: &str, found: &mut Vec<SpokenPath>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut index = 0;
    while index < tokens.len() {
        match &tokens[index] {
            TokenTree::Ident(first) if !follows_dot(&tokens, index) => {
                let line = first.span().start().line;
                let mut path = join(prefix, &first.to_string());
                index += 1;
                while is_double_colon(&tokens, index) {
                    match tokens.get(index + 2) {
                        Some(TokenTree::Ident(next)) => {
                            path = join(&path, &next.to_string());
                            index += 3;
                        }
                        Some(TokenTree::Group(group)) => {
                            collect_paths(group.stream(), &path, found);
                            path.clear();
                            index += 3;
                        }
                        _ => break,
                    }
                }
                if !path.is_empty() {
                    found.push(SpokenPath { line, name: path });
                }
            }
            TokenTree::Group(group) => {
                collect_paths(group.stream(), "", found);
                index += 1;
            }
            _ => index += 1,
        }
    }
}

/// A name after a single dot is a field or method, not the start of a path.
fn follows_dot(tokens: &[TokenTree], index: usize) -> bool {
    let dot = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == '.');
    index > 0 && dot(index - 1) && !(index > 1 && dot(index - 2))
}

fn is_double_colon(tokens: &[TokenTree], index: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(index) && colon(index + 1)
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}::{name}")
    }
}
