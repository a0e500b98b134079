//! A file's media type, by its name alone: contents are not looked at, and browsers are told not to (`nosniff`).
//!
//! The table is a library's, compiled in. Python's own would differ between machines, since it reads what it finds in
//! /etc, and know fewer of today's types (fonts, WebAssembly's neighbours) on the older versions.

/// The Content-Type of a file of this name. Text is UTF-8.
pub fn of_name(name: &[u8]) -> String {
    let extension = name.rsplit(|&byte| byte == b'/').next().and_then(extension).unwrap_or_default();
    match mime_guess::from_ext(extension).first_raw() {
        // A source map, which the table knows as a text of maps.
        _ if extension.eq_ignore_ascii_case("map") => "application/json".to_owned(),
        None => "application/octet-stream".to_owned(),
        // Its one name by now (RFC 9239), whichever extension it has.
        Some("application/javascript") => "text/javascript; charset=utf-8".to_owned(),
        Some(kind) if kind.starts_with("text/") => format!("{kind}; charset=utf-8"),
        Some(kind) => kind.to_owned(),
    }
}

/// What follows the last dot, unless the name begins there.
fn extension(file_name: &[u8]) -> Option<&str> {
    match memchr::memrchr(b'.', file_name)? {
        0 => None,
        dot => std::str::from_utf8(&file_name[dot + 1..]).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_types_that_browsers_expect() {
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.c/STYLE.CSS", "text/css; charset=utf-8"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("app.mjs", "text/javascript; charset=utf-8"),
            ("app.js.map", "application/json"),
            ("data.json", "application/json"),
            ("logo.svg", "image/svg+xml"),
            ("photo.webp", "image/webp"),
            ("photo.avif", "image/avif"),
            ("font.woff2", "font/woff2"),
            ("module.wasm", "application/wasm"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("feed.xml", "text/xml; charset=utf-8"),
            ("film.mp4", "video/mp4"),
            ("archive.tar.gz", "application/gzip"),
            ("README", "application/octet-stream"),
            (".html", "application/octet-stream"),
            ("dir.html/file", "application/octet-stream"),
            ("strange.\u{e4}", "application/octet-stream"),
            ("app.webmanifest", "application/manifest+json"),
            ("favicon.ico", "image/x-icon"),
            ("doc.pdf", "application/pdf"),
            ("README.md", "text/markdown; charset=utf-8"),
        ] {
            assert_eq!(of_name(name.as_bytes()), expected, "{name}");
        }
    }
}
