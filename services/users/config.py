"""Settings of the users process: `SAGACITY_USERS_...`, and those that all processes share."""

from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from chassis.config import ProcessSettings

MIN_PASSWORD_CHARACTERS = 10
MAX_PASSWORD_CHARACTERS = 128


class UsersSettings(ProcessSettings):
    """What the users process is told from outside; every secret may come from a file, by `..._FILE`."""

    process: ClassVar[str] = "users"

    signing_key: SecretStr = Field(
        default=SecretStr(""), description="PEM of the private Ed25519 key that signs access tokens"
    )
    bootstrap_admin_email: str = Field(
        default="",
        max_length=254,
        pattern=r"^([!-?A-~]+@[!-?A-~]+)?$",
        description="an admin with this e-mail is created at start unless an account has it; empty: none",
    )
    bootstrap_admin_password: SecretStr = Field(
        default=SecretStr(""), description="password of that admin, 10 to 128 characters"
    )

    @field_validator("bootstrap_admin_password")
    @classmethod
    def _of_the_length_that_register_asks_for(cls, password: SecretStr) -> SecretStr:
        if password and not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS:
            raise ValueError(f"must have {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters")
        return password
