//! Content negotiation: what the client sends and what it wants back. Pure.

use controlplane_types::ApiError;
use controlplane_types::patch::PatchType;

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata or its list.
    Metadata,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// application/json.
    Json,
    /// application/yaml.
    Yaml,
}

/// The best of what the client accepts and we can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
}

/// One media type with its parameters, lower-cased names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MediaType {
    pub(crate) name: String,
    pub(crate) parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Reads `a/b;c=d`.
    pub(crate) fn parse(text: &str) -> MediaType {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or("").to_ascii_lowercase();
        let pair = |p: &str| {
            let (name, value) = p.split_once('=').unwrap_or((p, ""));
            (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned())
        };
        MediaType { name, parameters: parts.filter(|p| !p.is_empty()).map(pair).collect() }
    }

    /// A parameter; empty when absent.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

/// The media types of an Accept header, best first: by weight, then in their order.
pub(crate) fn accepted(header: Option<&str>) -> Vec<MediaType> {
    let header = header.filter(|h| !h.trim().is_empty()).unwrap_or("*/*");
    let mut types: Vec<(f32, MediaType)> = header
        .split(',')
        .map(MediaType::parse)
        .map(|m| (m.parameter("q").parse().unwrap_or(1.0), m))
        .filter(|(weight, _)| *weight > 0.0)
        .collect();
    types.sort_by(|a, b| b.0.total_cmp(&a.0));
    types.into_iter().map(|(_, m)| m).collect()
}

/// Chooses the answer's shape and encoding.
pub(crate) fn wanted(accept: Option<&str>) -> Result<Wanted, ApiError> {
    for media in accepted(accept) {
        let encoding = match media.name.as_str() {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let shape = match media.parameter("as") {
            "" => Shape::Object,
            as_kind if media.parameter("g") == "meta.k8s.io" && media.parameter("v") == "v1" => match as_kind {
                "Table" => Shape::Table,
                "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Metadata,
                _ => continue,
            },
            _ => continue,
        };
        return Ok(Wanted { shape, encoding });
    }
    Err(ApiError::not_acceptable(&["application/json", "application/yaml"]))
}

/// What a request body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    /// JSON, also when the client said nothing.
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf, in requests only.
    Protobuf,
}

/// The format of a body that holds an object.
pub(crate) fn body_format(content_type: Option<&str>) -> Result<BodyFormat, ApiError> {
    match MediaType::parse(content_type.unwrap_or("")).name.as_str() {
        "" | "application/json" | "*/*" => Ok(BodyFormat::Json),
        "application/yaml" => Ok(BodyFormat::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyFormat::Protobuf),
        _ => Err(ApiError::unsupported_media_type(&["application/json", "application/yaml"])),
    }
}

/// The kind of a patch body.
pub(crate) fn patch_type(content_type: Option<&str>) -> Result<PatchType, ApiError> {
    let media = MediaType::parse(content_type.unwrap_or(""));
    PatchType::from_media_type(&media.name).ok_or_else(|| ApiError::unsupported_media_type(&PatchType::MEDIA_TYPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_accepted_shape_wins() {
        let json = |shape| Ok(Wanted { shape, encoding: Encoding::Json });
        let cases = [
            (None, json(Shape::Object)),
            (Some("*/*"), json(Shape::Object)),
            (Some("application/vnd.kubernetes.protobuf, application/json"), json(Shape::Object)),
            (
                Some(
                    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                ),
                json(Shape::Table),
            ),
            (Some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), json(Shape::Metadata)),
            (
                Some("application/json;q=0.5, application/yaml"),
                Ok(Wanted { shape: Shape::Object, encoding: Encoding::Yaml }),
            ),
        ];
        for (accept, expected) in cases {
            assert_eq!(wanted(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn unknown_types_are_refused_with_their_codes() {
        assert_eq!(wanted(Some("application/vnd.kubernetes.protobuf")).map_err(|e| e.code()), Err(406));
        assert_eq!(wanted(Some("application/json;as=Table;v=v9;g=meta.k8s.io")).map_err(|e| e.code()), Err(406));
        assert_eq!(body_format(Some("text/plain")).map_err(|e| e.code()), Err(415));
        assert_eq!(patch_type(Some("application/json")).map_err(|e| e.code()), Err(415));
    }
}
