//! Files inside a request: `data:` URLs, and media types guessed from names.
//! It must not know any particular wire, and fetches nothing.

/// A file that travels inside a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Embedded<'a> {
    /// Its media type, without parameters.
    pub(crate) media_type: &'a str,
    /// Its bytes in base64.
    pub(crate) base64: &'a str,
}

impl<'a> Embedded<'a> {
    /// The file of a base64 `data:` URL (RFC 2397); `None` for anything else.
    pub(crate) fn from_url(url: &'a str) -> Option<Self> {
        let (head, base64) = url.strip_prefix("data:")?.split_once(',')?;
        let head = head.strip_suffix(";base64")?;
        let media_type = head.split(';').next().filter(|name| !name.is_empty()).unwrap_or("text/plain");
        Some(Self { media_type, base64 })
    }
}

/// Whether `url` is fetched over http.
pub(crate) fn is_remote(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// The media type that a file's name or address suggests.
pub(crate) fn type_of_name(name: &str) -> Option<&'static str> {
    let path = name.split(['?', '#']).next().unwrap_or(name);
    let extension = path.rsplit('/').next()?.rsplit_once('.')?.1.to_ascii_lowercase();
    Some(match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "heif" => "image/heif",
        "pdf" => "application/pdf",
        "txt" | "md" => "text/plain",
        "html" | "htm" => "text/html",
        "csv" => "text/csv",
        "json" => "application/json",
        "mp3" => "audio/mp3",
        "wav" => "audio/wav",
        "ogg" => "audio/ogg",
        "flac" => "audio/flac",
        "mp4" => "video/mp4",
        "mov" => "video/quicktime",
        "webm" => "video/webm",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Embedded, type_of_name};

    #[test]
    fn a_data_url_is_taken_apart() {
        let png = Embedded::from_url("data:image/png;base64,AAAA").map(|file| (file.media_type, file.base64));
        assert_eq!(png, Some(("image/png", "AAAA")));
        let with_parameter = Embedded::from_url("data:audio/wav;codecs=1;base64,BB").map(|file| file.media_type);
        assert_eq!(with_parameter, Some("audio/wav"));
        assert_eq!(Embedded::from_url("data:text/plain,hello"), None);
        assert_eq!(Embedded::from_url("https://example.com/a.png"), None);
    }

    #[test]
    fn a_name_suggests_a_type() {
        assert_eq!(type_of_name("https://example.com/a/b.JPG?size=1"), Some("image/jpeg"));
        assert_eq!(type_of_name("https://example.com/a.b/c"), None);
    }
}
