"""The names that peft gives to what it adds to a model."""

SAVED = ".modules_to_save"  # a module of the base that is trained whole, as a copy
DOWN, UP = ".lora_A", ".lora_B"
