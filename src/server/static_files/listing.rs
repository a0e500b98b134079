//! A directory's listing: a page that needs nothing else, in the light or dark of its reader's system.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Stat};

use super::load::Site;
use super::path;
use super::resource::status;
use super::root::Effort;

/// More files than these are counted and not shown.
const MAX_SHOWN: usize = 10_000;

/// Nothing is loaded from anywhere, and nothing runs but what the page itself brings.
const LINES: &[u8] = b"cache-control: no-cache\r\nx-content-type-options: nosniff\r\n\
    content-security-policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\r\n\
    content-type: text/html; charset=utf-8\r\n";

#[derive(Debug)]
pub struct Listing {
    pub page: Arc<[u8]>,
    pub lines: Arc<[u8]>,
}

/// What a line of the page shows.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Item {
    name: String,
    is_directory: bool,
    bytes: u64,
    /// Seconds since 1970.
    modified_s: i64,
}

/// List what can be asked for in the directory `name`. Looks at every file, so it may take long.
pub fn load(site: &Site, name: &[u8]) -> io::Result<Listing> {
    let directory = site.root.open_below(if name.is_empty() { b"." } else { name }, Effort::Wait)?;
    if FileType::from_raw_mode(status(&directory)?.st_mode) != FileType::Directory {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (mut items, mut count) = (Vec::new(), 0);
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Some(file_name) = servable(entry.file_name().to_bytes(), site.rules.hidden) else { continue };
        count += 1;
        if items.len() < MAX_SHOWN {
            let status = match entry.file_type() {
                FileType::Symlink => {
                    site.root.look_below(&[name, file_name.as_bytes()].concat()).and_then(|fd| status(&fd))
                }
                _ => rustix::fs::statat(&directory, file_name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from),
            };
            // A link that leads out, or a file that is gone already.
            items.extend(status.ok().and_then(|status| item(file_name, &status)));
        }
    }
    items.sort_by_cached_key(|item| (!item.is_directory, item.name.to_lowercase(), item.name.clone()));
    let title = format!("{}/{}", site.rules.prefix, String::from_utf8_lossy(name));
    let page = render(&title, !name.is_empty(), &items, count - items.len().min(count));
    Ok(Listing { page: page.into_bytes().into(), lines: LINES.into() })
}

/// A name that a request can ask for.
fn servable(name: &[u8], hidden: bool) -> Option<&str> {
    let name = std::str::from_utf8(name).ok()?;
    let is_shown = !matches!(name, "." | "..") && !name.contains('\\') && (hidden || !path::is_hidden(name.as_bytes()));
    is_shown.then_some(name)
}

fn item(name: &str, status: &Stat) -> Option<Item> {
    let is_directory = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => false,
        _ => return None,
    };
    let bytes = u64::try_from(status.st_size).unwrap_or(0);
    Some(Item { name: name.to_owned(), is_directory, bytes, modified_s: status.st_mtime })
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8883;--soft:#888}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.25rem;font-weight:600;overflow-wrap:anywhere}h1 a{color:inherit}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}\
th{font-weight:500;color:var(--soft)}th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid}\
th[aria-sort=ascending] button::after{content:' \\2191'}th[aria-sort=descending] button::after{content:' \\2193'}\
td:first-child{width:100%;white-space:normal;overflow-wrap:anywhere}\
td+td,th+th{text-align:right;font-variant-numeric:tabular-nums;color:var(--soft)}\
tbody tr:hover{background:#8881}a{text-decoration:none}a:hover{text-decoration:underline}\
p{color:var(--soft)}@media(max-width:36rem){td:nth-child(3),th:nth-child(3){display:none}}";

/// Sorts by the column that is clicked; directories stay first.
const SCRIPT: &str = "\
document.querySelectorAll('th button').forEach((b,i)=>b.onclick=()=>{\
const h=b.parentNode,t=h.closest('table').tBodies[0],d=h.ariaSort=='ascending'?-1:1;\
const k=r=>r.cells[i].dataset.k;\
const rows=[...t.rows].sort((x,y)=>x.dataset.d-y.dataset.d||d*(i?k(x)-k(y):k(x).localeCompare(k(y),undefined,{numeric:true})));\
h.parentNode.querySelectorAll('th').forEach(o=>o.removeAttribute('aria-sort'));\
h.ariaSort=d>0?'ascending':'descending';t.append(...rows)})";

/// The page. `above`: there is a directory above to go to. `unshown`: how many more there are.
fn render(title: &str, above: bool, items: &[Item], unshown: usize) -> String {
    let mut page = String::with_capacity(4096 + items.len() * 200);
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style>\
         <h1>{crumbs}</h1><table><thead><tr><th aria-sort=\"ascending\"><button>Name</button></th>\
         <th><button>Size</button></th><th><button>Modified (UTC)</button></th></tr></thead><tbody>",
        title = Escaped(title),
        crumbs = Crumbs(title, above),
    );
    for item in items {
        render_item(&mut page, item);
    }
    page.push_str("</tbody></table>");
    match (items.len(), unshown) {
        (0, 0) => page.push_str("<p>This directory is empty.</p>"),
        (_, 0) => {}
        (_, more) => {
            let _ = write!(page, "<p>and {more} more</p>");
        }
    }
    let _ = write!(page, "<script>{SCRIPT}</script></html>");
    page
}

fn render_item(page: &mut String, item: &Item) {
    let slash = if item.is_directory { "/" } else { "" };
    let size = if item.is_directory { String::new() } else { size(item.bytes) };
    let _ = write!(
        page,
        "<tr data-d=\"{}\"><td data-k=\"{name}\"><a href=\"./{href}{slash}\">{name}{slash}</a></td>\
         <td data-k=\"{bytes}\">{size}</td><td data-k=\"{modified}\">{date}</td></tr>",
        u8::from(!item.is_directory),
        name = Escaped(&item.name),
        href = PercentEncoded(&item.name),
        bytes = item.bytes,
        modified = item.modified_s,
        date = date(item.modified_s),
    );
}

/// `06 Nov 1994 08:49`
fn date(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(253_402_300_799);
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    date.get("Sun, ".len().."Sun, 06 Nov 1994 08:49".len()).unwrap_or_default().to_owned()
}

/// `999 B`, `1.5 KiB`, `12 MiB`
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.*} {}", usize::from(value < 9.95), UNITS[unit])
}

/// Text within an HTML element or a quoted attribute.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => to.write_str("&amp;"),
            '<' => to.write_str("&lt;"),
            '>' => to.write_str("&gt;"),
            '"' => to.write_str("&quot;"),
            '\'' => to.write_str("&#39;"),
            // Controls have no form in HTML; what stands for them does.
            control if u32::from(control) < 0x20 => {
                to.write_char(char::from_u32(0x2400 + u32::from(control)).unwrap_or(' '))
            }
            other => to.write_char(other),
        })
    }
}

/// A segment of a path in a URL.
struct PercentEncoded<'a>(&'a str);

impl std::fmt::Display for PercentEncoded<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.write_char(char::from(byte)),
            _ => write!(to, "%{byte:02X}"),
        })
    }
}

/// The way from the mount's directory to this one. Links are relative, so they hold behind any proxy.
struct Crumbs<'a>(&'a str, bool);

impl std::fmt::Display for Crumbs<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Crumbs(title, above) = self;
        if *above {
            to.write_str("<a href=\"../\" title=\"up\" rel=\"up\">&#8592;</a> ")?;
        }
        Escaped(title).fmt(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_the_page() {
        let name = "\"><script>alert('&')</script>\n.html".to_owned();
        let items = [Item { name, is_directory: false, bytes: 1536, modified_s: 784_111_777 }];
        let page = render("/<title>/", true, &items, 3);
        assert!(!page.contains("<script>alert") && !page.contains("/<title>/"));
        assert!(page.contains("href=\"./%22%3E%3Cscript%3Ealert%28%27%26%27%29%3C%2Fscript%3E%0A.html\""));
        assert!(page.contains("&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;\u{240a}.html</a>"));
        assert!(page.contains(">1.5 KiB<") && page.contains(">06 Nov 1994 08:49<") && page.contains("and 3 more"));
    }

    #[test]
    fn a_name_with_a_colon_is_no_scheme() {
        let items = [Item { name: "javascript:x".to_owned(), is_directory: true, bytes: 0, modified_s: 0 }];
        assert!(render("/", false, &items, 0).contains("href=\"./javascript%3Ax/\""));
    }

    #[test]
    fn sizes_are_short_and_never_a_thousand_of_a_unit() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 * 1024, "10 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn only_what_can_be_asked_for_is_shown() {
        for name in [&b"."[..], b"..", b".git", b"a\\b", b"\xff"] {
            assert_eq!(servable(name, false), None, "{name:?}");
        }
        assert_eq!(servable(b".git", true), Some(".git"));
        assert_eq!(servable(b"..", true), None);
        assert_eq!(servable(b".well-known", false), Some(".well-known"));
    }
}
