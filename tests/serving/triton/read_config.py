"""Reads configurations of Triton by Triton's own messages: FILE ... -> a list of them, as JSON."""

import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

found = [text_format.Parse(Path(name).read_text(encoding="utf-8"), ModelConfig()) for name in sys.argv[1:]]
json.dump([json_format.MessageToDict(one, preserving_proto_field_name=True) for one in found], sys.stdout)
