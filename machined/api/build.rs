//! Compiles the .proto files in Rust, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["cairn/machine/v1/machine.proto", "cairn/machine/v1/local.proto", "cairn/machine/v1/permits.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
