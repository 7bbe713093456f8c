//! Reading `#[object(…)]`.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{Attribute, DeriveInput, Error, Expr, Field, Ident, LitInt, LitStr, Path, Result, Token};

/// Names that no property, relation or index can have.
const RESERVED: [&str; 3] = ["type", "oid", "updates"];

/// What a derive macro allows to be said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Object,
    File,
    PropertyType,
}

/// What is said about a struct.
#[derive(Default)]
pub(crate) struct OnStruct {
    pub(crate) name: Option<LitStr>,
    pub(crate) collection: Option<LitStr>,
    pub(crate) version: Option<LitInt>,
    pub(crate) migrate: Option<Path>,
    pub(crate) is_open: Option<()>,
    pub(crate) index_by: Vec<IndexBy>,
    pub(crate) crate_path: Option<Path>,
}

/// An index by a function.
pub(crate) struct IndexBy {
    pub(crate) name: Ident,
    pub(crate) function: Path,
    pub(crate) query: Option<Expr>,
    pub(crate) version: Option<LitInt>,
    pub(crate) is_unique: Option<()>,
}

/// What is said about a field.
#[derive(Default)]
pub(crate) struct OnField {
    pub(crate) of: Option<Expr>,
    /// With no expression, by value.
    pub(crate) index: Option<Option<Expr>>,
    pub(crate) unique: Option<Span>,
    pub(crate) on_remove: Option<Expr>,
    /// With no expression, what [`Default`] says.
    pub(crate) default: Option<Option<Expr>>,
    pub(crate) rename: Option<LitStr>,
    pub(crate) skip: Option<Span>,
}

impl OnStruct {
    pub(crate) fn read(input: &DeriveInput, of: Of) -> Result<Self> {
        let mut on = Self::default();
        each(&input.attrs, |meta| {
            let known: &[&str] = match of {
                Of::Object => &["name", "collection", "version", "migrate", "open", "index_by", "crate"],
                Of::File => &["name", "collection", "crate"],
                Of::PropertyType => &["crate"],
            };
            match known_name(&meta, known)? {
                "name" => once(&mut on.name, &meta, meta.value()?.parse()?),
                "collection" => once(&mut on.collection, &meta, meta.value()?.parse()?),
                "version" => once(&mut on.version, &meta, version(&meta)?),
                "migrate" => once(&mut on.migrate, &meta, meta.value()?.parse()?),
                "open" => once(&mut on.is_open, &meta, ()),
                "crate" => once(&mut on.crate_path, &meta, meta.value()?.call(Path::parse_mod_style)?),
                _ => {
                    on.index_by.push(IndexBy::read(&meta)?);
                    Ok(())
                }
            }
        })?;
        if let (Some(migrate), None) = (&on.migrate, &on.version) {
            return Err(Error::new(
                migrate.span(),
                "`migrate` makes documents those of a version; say `version = 1` too",
            ));
        }
        Ok(on)
    }

    pub(crate) fn crate_path(&self) -> Path {
        self.crate_path.clone().unwrap_or_else(|| syn::parse_quote!(::corallite_objects))
    }
}

impl IndexBy {
    fn read(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        let (mut index, mut query, mut version_of, mut is_unique) = (None, None, None, None);
        meta.parse_nested_meta(|meta| {
            if index.is_none() {
                let name = meta.path.require_ident()?.clone();
                index = Some((name, meta.value()?.parse()?));
                return Ok(());
            }
            match known_name(&meta, &["query", "version", "unique"])? {
                "query" => once(&mut query, &meta, meta.value()?.parse()?),
                "version" => once(&mut version_of, &meta, version(&meta)?),
                _ => once(&mut is_unique, &meta, ()),
            }
        })?;
        let missing = || meta.error("which index, by which function? Write `index_by(name = function)`");
        let (name, function) = index.ok_or_else(missing)?;
        check_name(&plain(&name), name.span())?;
        Ok(Self { name, function, query, version: version_of, is_unique })
    }
}

impl OnField {
    pub(crate) fn read(field: &Field, of: Of) -> Result<Self> {
        let mut on = Self::default();
        each(&field.attrs, |meta| {
            let known: &[&str] = match of {
                Of::Object => &["type", "index", "unique", "on_remove", "default", "rename", "skip"],
                _ => &["type", "default", "rename", "skip"],
            };
            let span = meta.path.span();
            match known_name(&meta, known)? {
                "type" => once(&mut on.of, &meta, meta.value()?.parse()?),
                "index" => once(&mut on.index, &meta, optional(&meta)?),
                "unique" => once(&mut on.unique, &meta, span),
                "on_remove" => once(&mut on.on_remove, &meta, meta.value()?.parse()?),
                "default" => once(&mut on.default, &meta, optional(&meta)?),
                "rename" => once(&mut on.rename, &meta, meta.value()?.parse()?),
                _ => once(&mut on.skip, &meta, span),
            }
        })?;
        if let (Some(span), None) = (on.unique, &on.index) {
            return Err(Error::new(span, "`unique` is said of an index; say which: `index = Normalize, unique`"));
        }
        if let (Some(of), Some(_)) = (&on.of, &on.on_remove) {
            return Err(Error::new(of.span(), "a property has a `type`, a relation an `on_remove`; nothing has both"));
        }
        let says_more = on.of.is_some() || on.index.is_some() || on.on_remove.is_some() || on.rename.is_some();
        if let (Some(span), true) = (on.skip, says_more || on.default.is_some()) {
            return Err(Error::new(span, "what is skipped is not stored, so there is no more to say about it"));
        }
        Ok(on)
    }

    /// What a field is called in the document.
    pub(crate) fn name(&self, field: &Field) -> Result<String> {
        let (name, span) = match (&self.rename, &field.ident) {
            (Some(rename), _) => (rename.value(), rename.span()),
            (None, Some(ident)) => (plain(ident), ident.span()),
            (None, None) => return Err(Error::new(field.span(), "it has no name")),
        };
        check_name(&name, span)?;
        Ok(name)
    }
}

/// An identifier as a text, without the `r#` of a keyword.
pub(crate) fn plain(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").unwrap_or(&text).to_owned()
}

fn each(attributes: &[Attribute], mut read: impl FnMut(ParseNestedMeta<'_>) -> Result<()>) -> Result<()> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("object"))
        .try_for_each(|attribute| attribute.parse_nested_meta(&mut read))
}

fn known_name<'a>(meta: &ParseNestedMeta<'_>, known: &[&'a str]) -> Result<&'a str> {
    let found = known.iter().find(|name| meta.path.is_ident(name));
    found.copied().ok_or_else(|| meta.error(format!("this is not known here; there is {}", known.join(", "))))
}

fn once<T>(slot: &mut Option<T>, meta: &ParseNestedMeta<'_>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(meta.error("this is said twice")),
    }
}

fn optional(meta: &ParseNestedMeta<'_>) -> Result<Option<Expr>> {
    if meta.input.peek(Token![=]) { Ok(Some(meta.value()?.parse()?)) } else { Ok(None) }
}

fn version(meta: &ParseNestedMeta<'_>) -> Result<LitInt> {
    let version: LitInt = meta.value()?.parse()?;
    version.base10_parse::<u64>()?;
    Ok(version)
}

/// Whether there can be a property, relation or index of this name; the rules of `Class`.
fn check_name(name: &str, span: Span) -> Result<()> {
    if RESERVED.contains(&name) {
        let problem = format!(
            "`{name}` is reserved, as {} are; take another name, or say `#[object(rename = \"…\")]`",
            RESERVED.join(", ")
        );
        return Err(Error::new(span, problem));
    }
    if name.is_empty() || name.len() > 200 || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Err(Error::new(span, format!("`{name}` is no name; names are letters, digits and `_`")));
    }
    Ok(())
}

/// Whether there can be a collection of this name.
pub(crate) fn check_collection(name: &str, span: Span) -> Result<()> {
    let is_allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 200 || !name.chars().all(is_allowed) {
        return Err(Error::new(span, "a collection is named with 1 to 200 letters, digits, `_` and `-`"));
    }
    Ok(())
}
