//! Files inside a request: `data:` URLs, bare base64, and addresses elsewhere.
//! It must not know which of them a wire accepts.

/// A `data:` URL cut into media type and base64.
pub(crate) struct DataUrl<'a> {
    /// `image/png`, in lower case, without parameters.
    pub(crate) media_type: String,
    /// Base64.
    pub(crate) data: &'a str,
}

impl<'a> DataUrl<'a> {
    /// `None` when `url` is no base64 `data:` URL.
    pub(crate) fn parse(url: &'a str) -> Option<Self> {
        let (head, data) = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")).and(url[5..].split_once(','))?;
        let media_type = head.strip_suffix(";base64")?.split(';').next()?.to_ascii_lowercase();
        Some(Self { media_type, data })
    }
}

/// Whether `url` is an address that a provider could fetch.
pub(crate) fn is_remote(url: &str) -> bool {
    let has_scheme = |scheme: &str| url.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    has_scheme("https://") || has_scheme("http://")
}

/// The media type and base64 of a file part; clients send bare base64 too, then the name tells the type.
pub(crate) fn media_of<'a>(data: &'a str, name: Option<&str>) -> (String, &'a str) {
    if let Some(url) = DataUrl::parse(data) {
        return (url.media_type, url.data);
    }
    let ending = name.and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending.to_ascii_lowercase());
    let media_type = match ending.as_deref() {
        Some("txt") => "text/plain",
        Some("md") => "text/markdown",
        Some("csv") => "text/csv",
        Some("html") => "text/html",
        Some("json") => "application/json",
        Some("pdf") | None => "application/pdf",
        Some(_) => "application/octet-stream",
    };
    (media_type.to_owned(), data)
}
