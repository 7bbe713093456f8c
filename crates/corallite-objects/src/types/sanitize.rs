//! HTML without what could harm its reader.

/// HTML of which only harmless elements and attributes are left: no scripts, no styles, no handlers. Values of
/// [`Type::Html`](super::Type::Html) are kept as they are; whoever shows them asks for this.
///
/// ```
/// use corallite_objects::types::sanitize;
///
/// assert_eq!(sanitize("<b onclick='x()'>loss</b><script>x()</script>"), "<b>loss</b>");
/// ```
pub fn sanitize(html: &str) -> String {
    ammonia::clean(html)
}
