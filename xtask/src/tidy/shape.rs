//! The shape of a file: a `//!` at its top, its length, and the length of its functions.

use super::source::SourceFile;
use super::{Finding, Rule};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Past this many lines a file is asked whether it is two things.
const FILE_LINES_MAX: usize = 800;
/// Past this many lines a function is asked whether it is two things.
const FUNCTION_LINES_MAX: usize = 70;

/// Every file opens with what it owns, who calls it and what it must never do.
pub fn check_header(file: &SourceFile) -> Option<Finding> {
    let first = file
        .text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    let says_something = first.strip_prefix("//!").is_some_and(|text| !text.trim().is_empty());
    (!says_something).then(|| Finding {
        rule: Rule::Header,
        path: file.path.clone(),
        line: Some(1),
        message: "open the file with `//!`: what it owns, who calls it, what it must never do".to_owned(),
    })
}

/// A file that has grown past the bound.
pub fn check_length(file: &SourceFile) -> Option<Finding> {
    let lines = file.text.lines().count();
    (lines > FILE_LINES_MAX).then(|| Finding {
        rule: Rule::FileLength,
        path: file.path.clone(),
        line: None,
        message: format!(
            "{lines} lines, more than {FILE_LINES_MAX}: is this two things? Split it, or say in xtask/tidy.toml why not"
        ),
    })
}

/// Functions that have grown past the bound.
pub fn check_functions(file: &SourceFile, syntax: &syn::File) -> Vec<Finding> {
    let mut functions = Functions::default();
    functions.visit_file(syntax);
    let long = functions
        .found
        .into_iter()
        .filter(|function| function.lines > FUNCTION_LINES_MAX);
    long.map(|function| Finding {
        rule: Rule::FunctionLength,
        path: file.path.clone(),
        line: Some(function.first_line),
        message: format!(
            "`{}` has {} lines, more than {FUNCTION_LINES_MAX}",
            function.name, function.lines
        ),
    })
    .collect()
}

#[derive(Default)]
struct Functions {
    found: Vec<Function>,
}

struct Function {
    name: String,
    first_line: usize,
    lines: usize,
}

impl Functions {
    /// Counts from the signature to the closing brace; attributes and documentation are not the function's length.
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first_line, last_line) = (signature.span().start().line, block.span().end().line);
        self.found.push(Function {
            name: signature.ident.to_string(),
            first_line,
            lines: last_line - first_line + 1,
        });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile {
            path: "a.rs".into(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_header_must_be_first_and_say_something() {
        assert!(check_header(&file("//! Owns pods.\n")).is_none());
        assert!(check_header(&file("\n//! Owns pods.\n")).is_none());
        for bad in [
            "",
            "//!\n",
            "// Owns pods.\n",
            "use std::fmt;\n//! Late.\n",
            "/// Wrong.\n",
        ] {
            assert!(check_header(&file(bad)).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_of_800_lines_is_accepted_and_one_more_is_not() {
        assert!(check_length(&file(&"x\n".repeat(800))).is_none());
        assert!(check_length(&file(&"x\n".repeat(801))).unwrap().message.contains("801"));
    }

    #[test]
    fn functions_are_measured_wherever_they_stand_and_without_their_documentation() {
        let body = "let _ = 1;\n".repeat(69);
        let documentation = "/// Words.\n".repeat(30);
        let accepted = format!("{documentation}fn f() {{\n{}}}\n", "let _ = 1;\n".repeat(68));
        let text = format!(
            "fn a() {{\n{body}}}\nimpl S {{ fn b() {{\n{body}}} }}\ntrait T {{ fn c() {{\n{body}}} }}\n{accepted}"
        );
        let source = file(&text);
        let found = check_functions(&source, &source.parse().unwrap());
        let names: Vec<_> = found
            .iter()
            .map(|finding| finding.message.split('`').nth(1).unwrap().to_owned())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(found[0].line, Some(1));
        assert!(found[0].message.contains("71"));
    }
}
