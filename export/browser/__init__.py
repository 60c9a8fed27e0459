"""A folder that makes pictures in a visitor's browser: page, bundle, dmgan in JavaScript, onnxruntime-web."""
